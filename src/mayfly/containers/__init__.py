"""The only room that starts containers: one protocol (`runtime`), its drivers, cgroups, seccomp and the held init."""
