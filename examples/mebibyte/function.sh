# Writes exactly 1 MiB, the largest result there is.
head -c 1048576 /dev/zero | tr '\0' x
