"""`hf-repgeo space publish`: publishes one of the package's Spaces on the Hub."""

from __future__ import annotations

import argparse

from .options import add_flags, given

ABOUT = "Put a folder of spaces/ onto the Hub as a Space. With --to nothing is pushed. Log in with 'hf auth login'."
PUBLISH = "hf_repgeo.hub.spaces.publish_space"
KEYWORDS = ("to", "private")


def add(commands) -> None:
    """Adds `space` to the commands of the parser."""
    spaces = commands.add_parser("space", help="what to do with a Space", description="What to do with a Space.")
    verbs = spaces.add_subparsers(required=True, metavar="VERB")
    parser = verbs.add_parser("publish", help="to the Hub", description=ABOUT)
    parser.set_defaults(run=publish)
    parser.add_argument("folder", metavar="FOLDER", help="such as spaces/anisotropy")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the Space")
    add_flags(parser, PUBLISH, *KEYWORDS, to="DIR")


def publish(options: argparse.Namespace) -> None:
    """Publishes the Space, and prints where it is."""
    from ..hub.spaces import publish_space

    print(publish_space(options.folder, options.repo_id, **given(options, *KEYWORDS)))
