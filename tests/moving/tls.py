"""The import trusts a PostgreSQL with TLS as far as the URL says.

    python tests/moving/tls.py KINTO_SERVERLESS KINTO_LOCAL
"""

import os
import shutil
import subprocess
import sys
import tempfile

from sides import HOST, SETTINGS, storage

from postgres import Postgres
from servers import Kinto


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def certify(directory):
    """`ca.pem`, `other.pem` of another authority, and a certificate of the first only for `localhost`."""
    for name in ("ca", "other"):
        openssl(directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl(directory, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    with open(f"{directory}/names", "w") as names:
        names.write("subjectAltName=DNS:localhost")
    sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.pem", "-extfile", "names", "-days", "2"]
    openssl(directory, *sign)


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        certify(directory)
        kinto = Kinto(HOST, {**SETTINGS, **storage(postgres.url("kinto"))})
        for backend in kinto.backends:
            backend.initialize_schema()
        for name in ("server.pem", "server.key"):
            shutil.copy(f"{directory}/{name}", postgres.data)
            os.chmod(f"{postgres.data}/{name}", 0o600)
            if postgres.user:
                shutil.chown(f"{postgres.data}/{name}", "nobody")
        with open(f"{postgres.data}/pg_hba.conf", "w") as rules:
            rules.write("hostssl all all 127.0.0.1/32 trust\n")
        with open(f"{postgres.data}/postgresql.conf", "a") as settings:
            settings.write("\nssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n")
        postgres.program("pg_ctl", "-D", postgres.data, "reload")

        def imports(host, query):
            url = f"postgresql://kinto@{host}:{postgres.port}/kinto?hostaddr=127.0.0.1&{query}"
            done = subprocess.run([program, "import", url, "--data", f"{directory}/t.db", "--dry-run"], capture_output=True, text=True)
            assert done.returncode in (0, 2), done
            return done

        ca, other = f"sslrootcert={directory}/ca.pem", f"sslrootcert={directory}/other.pem"
        for host, query, works in [
            ("localhost", f"sslmode=verify-full&{ca}", True),
            ("localhost", ca, True),
            ("kinto.test", f"sslmode=verify-full&{ca}", False),
            ("kinto.test", f"sslmode=verify-ca&{ca}", True),
            ("kinto.test", "sslmode=require", True),
            ("kinto.test", f"sslmode=require&{ca}", True),
            ("localhost", f"sslmode=require&{other}", False),
            ("localhost", f"sslmode=verify-ca&{other}", False),
            ("localhost", "sslmode=verify-full", False),
            ("localhost", "", False),
            ("localhost", "sslmode=disable", False),
            ("localhost", "sslmode=maybe", False),
        ]:
            done = imports(host, query)
            assert (done.returncode == 0) == works, f"{host} {query}: {done}"
        assert "sslrootcert=FILE" in imports("localhost", "").stderr
        print("ok")


if __name__ == "__main__":
    main()
