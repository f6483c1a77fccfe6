"""What ``overdepth ...`` does: a module for each command, and :mod:`overdepth.commands.app`, which runs them."""
