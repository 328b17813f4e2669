"""`python -m ocssd_tcp` is the daemon, `ocssd-tcpd`."""

from ocssd_tcp.cli.start import main

if __name__ == "__main__":
    main()
