"""
The data directory of `mayfly up`: where everything is, and what is put there at a start.

Lasting secrets are root's alone; the API server and nats-server get copies of just what they need, in directories of
their own. Rows: F1.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from mayfly.domain.errors import QueueUnavailable
from mayfly.ops.certificates import ensure_certificates, ensure_token_key, public_pem, write_secret
from mayfly.ops.nats_config import ADMIN, API, ROLES, STORE_BYTES, server_config
from mayfly.ops.sealing_keys import ensure_sealing_key, public_name
from mayfly.settings import NatsSettings

STORE_LEAST_BYTES = 3 << 29  # what the streams reserve, and a little


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are below the data directory."""

    root: Path

    @property
    def tls(self) -> Path:
        """The CA and the server's certificate; root's alone."""
        return self.root / "tls"

    @property
    def ca(self) -> Path:
        """The certificate that clients trust; anybody may read it."""
        return self.root / "ca.crt"

    @property
    def sealing_keys(self) -> Path:
        """The private sealing keys, root's alone, as the worker is."""
        return self.root / "sealing-keys"

    @property
    def secrets(self) -> Path:
        """Passwords of the NATS users; root's alone."""
        return self.root / "secrets"

    @property
    def nats(self) -> Path:
        """nats-server's configuration and store, its user's alone."""
        return self.root / "nats"

    @property
    def api(self) -> Path:
        """Copies of what the API server needs, its user's alone."""
        return self.root / "api"

    @property
    def images(self) -> Path:
        """Unpacked images, root's alone."""
        return self.root / "images"

    @property
    def url_file(self) -> Path:
        """Where NATS can be reached while `up` runs: for `mayfly inspect`."""
        return self.root / "nats.url"

    def password(self, role: str) -> Path:
        """The file with a role's NATS password."""
        return self.secrets / f"nats-{role}.password"

    def fill(self, hosts: tuple[str, ...], *, nats_port: int, nats_uid: int, api_uid: int) -> None:
        """Make what is missing: secrets, certificates for *hosts*, configurations; keep what is there."""
        self.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in ROLES:
            if not self.password(role).exists():
                write_secret(self.password(role), secrets.token_urlsafe(32).encode())
        ensure_certificates(self.tls, hosts=hosts)
        ensure_token_key(self.tls / "token-keys")
        ensure_sealing_key(self.sealing_keys)
        shutil.copyfile(self.tls / "ca.crt", self.ca)
        self.ca.chmod(0o644)
        self._fill_api(api_uid)
        self._fill_nats(nats_port, nats_uid)

    def _fill_api(self, uid: int) -> None:
        shutil.rmtree(self.api, ignore_errors=True)
        for keys in ("token-keys", "sealing-keys"):
            (self.api / keys).mkdir(mode=0o700, parents=True)
        for name in ("server.crt", "server.key"):
            write_secret(self.api / name, (self.tls / name).read_bytes())
        for key in (self.tls / "token-keys").glob("*.pem"):
            write_secret(self.api / "token-keys" / key.name, key.read_bytes())
        for key in self.sealing_keys.glob("*.pem"):
            write_secret(self.api / "sealing-keys" / public_name(key.name), public_pem(key.read_bytes()))
        write_secret(self.api / "nats.password", self.password(API).read_bytes())
        self.api.chmod(0o700)
        _give(self.api, uid)

    def _fill_nats(self, port: int, uid: int) -> None:
        (self.nats / "store").mkdir(mode=0o700, parents=True, exist_ok=True)
        passwords = {role: self.password(role).read_text() for role in ROLES}
        config = server_config(port=port, store=self.nats / "store", passwords=passwords, store_bytes=_room(self.nats))
        write_secret(self.nats / "nats.conf", config.encode())
        self.nats.chmod(0o700)
        _give(self.nats, uid)
        write_secret(self.url_file, f"nats://127.0.0.1:{port}".encode())


def admin_settings(layout: Layout) -> NatsSettings:
    """
    How the operator's own commands reach the NATS of a running `up`.

    Raises: QueueUnavailable when it does not run.
    """
    if not layout.url_file.exists():
        raise QueueUnavailable(f"`mayfly up` does not run with {layout.root} as its data directory.")
    return NatsSettings(
        nats_url=layout.url_file.read_text(), nats_user=ADMIN, nats_password_file=layout.password(ADMIN)
    )


def _room(directory: Path) -> int:
    """Say how much NATS may store: its files may take half of the disk, and it needs some for the streams at all."""
    return max(STORE_LEAST_BYTES, min(STORE_BYTES, shutil.disk_usage(directory).total // 4))


def _give(directory: Path, uid: int) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
