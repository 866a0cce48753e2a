"""
Debian's nginx with what the gateway's config.yaml says to nginx, put where APISIX 3.18 puts it in its own nginx.conf.
This is not APISIX: none of its plugins run. It is the same nginx underneath, reading the same words.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from mayfly.ops.gateway.chunks import literal
from mayfly.ops.gateway.render import Rendered
from tests.support.nats import free_port

MODULES = Path("/usr/lib/nginx/modules")
READY_S = 10.0
CONF = """\
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
{user}
error_log {root}/error.log warn;
pid {root}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  log_format main escape={http[access_log_format_escape]} '{http[access_log_format]}';
  access_log {root}/access.log main;
  client_max_body_size {http[client_max_body_size]};
  client_header_timeout {http[client_header_timeout]};
  client_body_timeout {http[client_body_timeout]};
  underscores_in_headers {http[underscores_in_headers]};
  {real_ip}
  {http_snippet}
  upstream api {{ {servers} }}
  server {{
    listen 127.0.0.1:{port} ssl default_server;
    ssl_certificate {secrets}/gateway.crt;
    ssl_certificate_key {secrets}/gateway.key;
    proxy_ssl_trusted_certificate {trusted};
    {server_snippet}
    proxy_ssl_name $upstream_host;
    proxy_ssl_server_name on;
    location / {{
      set $upstream_host '{name}';
      set $apisix_request_id $http_x_request_id;
      {location_snippet}
      proxy_set_header Host $upstream_host;
      proxy_pass https://api;
      header_filter_by_lua_block {{
        local pages = {pages}
        local page = pages[ngx.status]
        if ngx.var.upstream_status == nil or page == nil or ngx.header["X-From"] == "api" then return end
        ngx.ctx.page = page
        ngx.header["Content-Type"] = "application/problem+json"
        ngx.header["Content-Length"] = #page
      }}
      body_filter_by_lua_block {{
        if not ngx.ctx.page then return end
        ngx.arg[1], ngx.arg[2] = ngx.ctx.page, true
        loadstring({chunk})()(nil, {{plugin_error_page_meta = true}})
      }}
    }}
  }}
}}
"""
"""The two filters do what the plugins error-page and serverless-post-function do."""


def present() -> bool:
    """Whether nginx and its Lua are here."""
    return shutil.which("nginx") is not None and (MODULES / "ngx_http_lua_module.so").exists()


@dataclass
class Nginx:
    """One nginx before some *servers*; a context manager."""

    files: Rendered
    secrets: Path  # of the gateway
    servers: tuple[int, ...]
    port: int = field(default_factory=free_port)

    def __enter__(self) -> Nginx:
        """Start it, and wait until it listens."""
        self.root = Path(tempfile.mkdtemp(prefix="mayfly-nginx-"))
        (self.root / "nginx.conf").write_text(self._conf())
        command = ["nginx", "-e", str(self.root / "error.log"), "-c", str(self.root / "nginx.conf")]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + READY_S
        while not (self.root / "nginx.pid").exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"nginx does not start: {self.errors()}")
            time.sleep(
                0.02
            )  # between two looks, bounded by READY_S: this file is all by which nginx says that it listens
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://localhost:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client trusts."""
        return ssl.create_default_context(cafile=self.secrets / "ca.crt")

    def errors(self) -> str:
        """What it complains of."""
        log = self.root / "error.log"
        return log.read_text() if log.exists() else ""

    def log_lines(self) -> list[str]:
        """What it has logged of requests."""
        return (self.root / "access.log").read_text().splitlines()

    def _conf(self) -> str:
        config, routes = yaml.safe_load(self.files.config), yaml.safe_load(self.files.routes)
        nginx = config["nginx_config"]
        [error_page] = routes["plugin_metadata"]
        pages = {int(name[6:]): page["body"] for name, page in error_page.items() if name.startswith("error_")}
        [chunk] = routes["global_rules"][0]["plugins"]["serverless-post-function"]["functions"]
        return CONF.format(
            modules=MODULES,
            user="user root;" if os.geteuid() == 0 else "",
            root=self.root,
            http=nginx["http"],
            real_ip=_real_ip(nginx["http"]),
            http_snippet=nginx["http_configuration_snippet"],
            server_snippet=nginx["http_server_configuration_snippet"],
            location_snippet=nginx["http_server_location_configuration_snippet"],
            servers=" ".join(f"server 127.0.0.1:{port};" for port in self.servers),
            port=self.port,
            secrets=self.secrets,
            trusted=config["apisix"]["ssl"]["ssl_trusted_certificate"],
            name=routes["upstreams"][0]["upstream_host"],
            pages=literal(pages),
            chunk=literal(chunk),
        )


def _real_ip(http: dict[str, Any]) -> str:
    lines = [f"set_real_ip_from {address};" for address in http["real_ip_from"]]
    lines.append(f"real_ip_header {http.get('real_ip_header', 'X-Real-IP')};")
    lines.append(f"real_ip_recursive {http.get('real_ip_recursive', 'off')};")
    return "\n  ".join(lines)
