# One line KEY=VALUE each; nothing is changed.
say() { printf '%s=%s\n' "$1" "$2"; }
show() { systemctl show leakwatt-client.service --property="$1" | cut -d= -f2-; }
say state "$(show ActiveState)"
say since "$(show ActiveEnterTimestamp)"
say result "$(show Result)"
say code "$(show ExecMainStatus)"
say restarts "$(show NRestarts)"
say pulse_s "$([ -e /run/leakwatt/pulse ] && echo $(($(date +%s) - $(stat -c %Y /run/leakwatt/pulse))))"
say records "$(find /var/lib/leakwatt/vault -name '*.sealed' 2>/dev/null | wc -l)"
