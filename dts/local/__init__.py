"""Runs functions on this machine without a server: for tests of functions, and for `dts-client --local`."""
