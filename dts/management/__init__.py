"""The administrator's side: AdminClient for programs, the shell `dts-admin` for people and scripts."""
