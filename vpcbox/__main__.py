"""`python -m vpcbox` is the command `vpcbox`."""

from vpcbox.cli import main

main()
