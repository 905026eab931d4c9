"""A private PostgreSQL, in a directory, on a free port of loopback."""

import glob
import os
import shutil
import socket
import subprocess

import psycopg2


class Postgres:
    def __init__(self, directory):
        self.data = os.path.join(directory, "postgres")
        found = shutil.which("initdb") or max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=None)
        if not found:
            raise SystemExit("PostgreSQL is not installed (tests/run)")
        self.programs = os.path.dirname(os.path.realpath(found))
        # PostgreSQL refuses to run as root.
        self.user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        os.makedirs(self.data)
        if self.user:
            os.chmod(directory, 0o755)
            shutil.chown(self.data, "nobody")

    def program(self, name, *arguments):
        command = [*self.user, os.path.join(self.programs, name), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def __enter__(self):
        self.program("initdb", "-D", self.data, "-U", "kinto", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-p {self.port} -h 127.0.0.1 -k {self.data} -c fsync=off -c timezone=UTC"
        log = os.path.join(self.data, "log")
        self.program("pg_ctl", "-D", self.data, "-w", "-l", log, "-o", options, "start")
        self.maintain("CREATE DATABASE kinto")
        return self

    def __exit__(self, *_):
        self.program("pg_ctl", "-D", self.data, "-m", "immediate", "stop")

    def url(self, database):
        return f"postgresql://kinto@127.0.0.1:{self.port}/{database}"

    def maintain(self, *statements):
        connection = psycopg2.connect(self.url("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def copy(self, database, name):
        """Copies a database and replaces one of that name. Nobody may be connected to it meanwhile."""
        idle = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        self.maintain(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", idle, f"CREATE DATABASE {name} TEMPLATE {database}")

    def dump(self, database, name):
        """Copies a database by `pg_dump`."""
        self.maintain(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}")
        dump = [os.path.join(self.programs, "pg_dump"), self.url(database)]
        with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumped:
            load = [os.path.join(self.programs, "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", self.url(name)]
            subprocess.run(load, stdin=dumped.stdout, stdout=subprocess.DEVNULL, check=True)
        assert dumped.returncode == 0

    def damage(self, statement, database):
        """Runs a statement that changes one row. Returns the path of the row's object, `None` if it changed no row."""
        if "timestamps" in statement:
            return "/buckets" if self.execute(statement, database) else None
        path = "CASE resource_name WHEN 'account' THEN '' ELSE parent_id END || '/' || resource_name || 's/' || id"
        if "objects" not in statement.split("WHERE")[0]:
            path = "object_id"
        rows = self.rows(f"{statement} RETURNING {path}", database)
        return rows[0][0] if rows else None

    def execute(self, statement, database):
        """Runs a statement. Returns the number of rows that it changed."""
        connection = psycopg2.connect(self.url(database))
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            count = cursor.rowcount
        connection.close()
        return count

    def rows(self, query, database="kinto"):
        connection = psycopg2.connect(self.url(database))
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            found = cursor.fetchall()
        connection.commit()
        connection.close()
        return found
