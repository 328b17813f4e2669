"""The vocabulary of Open-Channel SSD 2.0: geometry, addresses and layouts, shared by target and host. Pure: no I/O."""
