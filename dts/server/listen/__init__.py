"""The side of the server that faces the network: connections within limits, whoever opens them."""
