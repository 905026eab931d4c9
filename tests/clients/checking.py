"""Checks for the clients' scripts."""

import sys

from kinto_http import KintoException


def check(what, holds):
    if not holds:
        sys.exit(f"FAILED {what}")
    print(f"ok {what}")


def refused(status, call):
    """Returns True if `call` fails with this status."""
    try:
        call()
    except KintoException as error:
        return error.response.status_code == status
    return False
