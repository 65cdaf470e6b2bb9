SYSTEMD_COLORS=0 journalctl --unit leakwatt-client.service --lines "$N" --output cat --no-pager
