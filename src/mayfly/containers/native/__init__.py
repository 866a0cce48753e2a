"""Our own launcher as a driver: `launch.c` and what speaks with it. The other drivers' C programs are here too."""
