# Needs nothing but a shell, so that a board without a usable Python can be told so.
say() { printf '%s=%s\n' "$1" "$2"; }
first() { for file in "$@"; do [ -r "$file" ] && tr -d '\0\n' <"$file" && break; done; }
python=${PYTHON:-python3}
say model "$(first /proc/device-tree/model /sys/class/dmi/id/product_name)"
say machine "$(uname -m)"
say bits "$(getconf LONG_BIT)"
say libc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say os "$(. /etc/os-release 2>/dev/null; echo "$ID $VERSION_ID")"
say l4t "$(sed -n 's/^# R\([0-9]*\).*/\1/p' /etc/nv_tegra_release 2>/dev/null)"
say python "$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)"
say venv "$("$python" -c 'import ensurepip, venv; print("yes")' 2>/dev/null)"
say systemd "$([ -d /run/systemd/system ] && echo yes)"
say groups "$(cut -d: -f1 /etc/group | tr '\n' ' ')"
