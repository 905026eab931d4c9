"""Runs checkov over template.yaml as CloudFormation gets it, with each condition on and off. The failing checks must be those that
docs/security.md gives reasons for.

    target/venv/bin/python tests/template/checks.py PATH/TO/checkov

tests/run does not install checkov, because it needs other versions of the same packages. Install it separately:
`python3 -m venv somewhere && somewhere/bin/pip install checkov`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

HERE = Path(__file__).resolve().parent


def deployments():
    """The template that CloudFormation gets for each deployment of `tests/template`."""
    spec = spec_from_file_location("templates", HERE / "__main__.py")
    templates = module_from_spec(spec)
    spec.loader.exec_module(templates)
    return {name: template for name, (template, _, _) in templates.ALL.items()}


def reasons():
    """The checks in the table of docs/security.md: `CKV_AWS_119, 149, …`, before the text."""
    page = (HERE.parent.parent / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| CKV_AWS_((?:\d+, )+)", page, re.MULTILINE)
    return {f"CKV_AWS_{number}" for row in rows for number in re.findall(r"\d+", row)}


def named(checkov, template):
    """The checks that fail."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "template.json"
        path.write_text(json.dumps(template))
        command = [checkov, "--file", path, "--framework", "cloudformation", "--skip-download", "--output", "json"]
        # checkov's own interpreter finds its packages.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = json.loads(run.stdout)
    return {check["check_id"] for check in found["results"]["failed_checks"]}, found["summary"]["passed"]


def main():
    seen = set()
    for name, template in deployments().items():
        failed, passed = named(sys.argv[1], template)
        assert passed, f"{name}: nothing was checked"
        print(f"{name}: {passed} passed, {len(failed)} kinds are named")
        seen |= failed
    print(f"without a reason: {sorted(seen - reasons())}; a reason for nothing: {sorted(reasons() - seen)}")
    sys.exit(seen != reasons())


if __name__ == "__main__":
    main()
