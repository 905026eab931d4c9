"""A stack's signing key, its certificates, and the verifier. If autograph-utils is installed (tests/requirements.txt), it verifies with the
chain of `x5u`, as in Mozilla's own tools. Otherwise examples/verify.py verifies with only the public key.
"""

import hashlib
import os
import ssl
import subprocess
import sys
import tempfile

import http1

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", "..", "examples"), os.path.join(HERE, "..", "signer")]
import verify  # noqa: E402

try:
    import aiohttp
    import third_party
except ImportError:
    third_party = None

NAME = "walks.content-signature.example.org"
ROOT = """[req]
distinguished_name = name
x509_extensions = root
[name]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[leaf]
extendedKeyUsage = codeSigning
"""
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"]


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], capture_output=True)
    done.returncode == 0 or sys.exit(done.stderr.decode())
    return done.stdout


class Trust:
    """A root, a key that it certifies, and a server of their chain."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            def at(name):
                return os.path.join(folder, name)
            with open(at("conf"), "w") as file:
                file.write(ROOT)
            root = ["-config", at("conf"), *CURVE]
            openssl("req", "-x509", *root, "-subj", "/CN=root", "-days", "2", "-keyout", at("root.key"), "-out", at("root.pem"))
            openssl("req", "-new", *root, "-subj", "/CN=" + NAME, "-keyout", at("leaf.key"), "-out", at("leaf.csr"))
            openssl("x509", "-req", "-in", at("leaf.csr"), "-CA", at("root.pem"), "-CAkey", at("root.key"), "-set_serial", "2", "-days", "1",
                    "-extfile", at("conf"), "-extensions", "leaf", "-out", at("leaf.pem"))
            self.pem, leaf, root = (open(at(name)).read() for name in ("leaf.key", "leaf.pem", "root.pem"))
            public = openssl("ec", "-in", at("leaf.key"), "-pubout", "-outform", "DER")
        self.key = tuple(int.from_bytes(half, "big") for half in (public[-96:-48], public[-48:]))
        self.chain = (leaf + root).encode()
        self.root = hashlib.sha256(ssl.PEM_cert_to_DER_cert(root)).hexdigest().upper()
        self.session = None

    async def start(self):
        self.server = await http1.serve(0, self.answer)
        self.x5u = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/chain.pem"
        if third_party:
            self.session = aiohttp.ClientSession()
            root = ":".join(self.root[at:at + 2] for at in range(0, len(self.root), 2))
            self.verifier = third_party.verifier(self.session, root, NAME)
        return self

    async def answer(self, _):
        return 200, [("content-type", "application/x-pem-file")], self.chain

    async def verifies(self, changeset):
        if self.session is None:
            return verify.verifies(changeset, self.key)
        signatures = changeset["metadata"]["signatures"]
        if signatures[0] != changeset["metadata"]["signature"] or signatures[0]["x5u"] != self.x5u:
            return False
        try:
            return await third_party.check(self.verifier, changeset) == 1
        except Exception as error:  # autograph-utils raises a dozen classes without a common base.
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return False

    @staticmethod
    def verified_by():
        return "autograph-utils" if third_party else "examples/verify.py"

    async def stop(self):
        if self.session:
            await self.session.close()
        await http1.stop([self.server])
