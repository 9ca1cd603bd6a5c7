"""The command line, ``alchemi-bridge COMMAND``.

Every command is a module with ``add_parser(subparsers) -> None``, which registers its parser with
``parser.set_defaults(run=run)``, and ``run(args) -> int``, which returns the exit status. Heavy
imports (torch, ASE, matplotlib) belong inside ``run``, so that ``--help`` stays fast.
"""
