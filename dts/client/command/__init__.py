"""The parts of the command `dts-client`: its options, its files, what it says."""
