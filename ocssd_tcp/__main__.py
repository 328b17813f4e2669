"""`python -m ocssd_tcp` is the daemon, `ocssd-tcpd`."""

from ocssd_tcp.cli.daemon import main

if __name__ == "__main__":
    main()
