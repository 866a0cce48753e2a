"""Image references: every form docker accepts, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.domain.errors import InvalidRequest
from mayfly.domain.ids import Digest
from mayfly.images.reference import parse_reference

pytestmark = pytest.mark.F6

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/image", "docker.io/user/image:latest"),
        ("user/image:tag", "docker.io/user/image:tag"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1.36@{DIGEST}", f"docker.io/library/busybox:1.36@{DIGEST}"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/user/x:1", "docker.io/user/x:1"),
        ("ghcr.io/a/b/c:v1.2_3-x", "ghcr.io/a/b/c:v1.2_3-x"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        (f"127.0.0.1:5000/path/x@{DIGEST}", f"127.0.0.1:5000/path/x@{DIGEST}"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("Registry.Example.COM/x", "Registry.Example.COM/x:latest"),
        ("registry.example:443/a__b/c--d.e_f", "registry.example:443/a__b/c--d.e_f:latest"),
        ("local/upper", "local/upper:latest"),
        ("dir:x", "docker.io/library/dir:x"),  # a name like any other: no transport is ever read from it
        ("docker-daemon:busybox", "docker.io/library/docker-daemon:busybox"),
        ("containers-storage:x", "docker.io/library/containers-storage:x"),
        ("2130706433/x", "docker.io/2130706433/x:latest"),
    ],
)
def test_each_form_is_read_as_docker_does(text: str, full: str) -> None:
    """A short reference stands for Docker Hub, its library and the tag latest; the others for themselves."""
    assert str(parse_reference(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Busybox",
        "busybox ",
        " busybox",
        "busy box",
        "-busybox",
        "--all",
        "busybox:",
        "busybox:-x",
        "busybox:" + "t" * 129,
        "busybox@",
        "busybox@sha256:abc",
        "busybox@sha512:" + "0" * 128,
        f"busybox@{DIGEST.upper()}",
        f"busybox@{DIGEST}@{DIGEST}",
        "a//b",
        "/a",
        "a/",
        "a/../b",
        "./a",
        "..",
        "a..b",
        "a___b",
        "docker://busybox",
        "oci:/etc:x",
        "docker-archive:/etc/passwd",
        "dir:/etc",
        "host:99999/x",
        "host:port/x",
        "-host.example/x",
        "host_x.example:1/y",
        "busybox\n",
        "busybox\0",
        "büsybox",
        "x" * 513,
        "user@host/x",
        "http://registry.example/x",
        "a b/c",
        "$(id)",
        "`id`",
        "x;id",
        "%2e%2e/x",
        "--authfile=/etc/shadow",
        "-v",
        "--",
        "host.example/--tls-verify=false",
        "oci:/",
        "oci-archive:/etc/passwd",
        "docker-archive:/etc/passwd:x",
        "containers-storage:[overlay@/var/lib]x",
        "docker-daemon:/run/docker.sock",
        "tarball:/etc",
        "ostree:x@/repo",
        "host.example:443/../x",
        "host.example:443/x/..",
        "host.example/%2e%2e/x",
        "host.example/x%00",
        "host.example/x\0y",
        "host.example/x\ny",
        "host.example/x\ty",
        "host.example /x",
        "host.example\r\nX: y/x",
        "host.example?x/y",
        "host.example#x/y",
        "host.example\\@10.0.0.5/x",
        "a@10.0.0.5/x",
        "ghcr.i\u043e/x",
        "\uff47hcr.io/x",
        "ghcr\u3002io/x",
        "\u2460\u2461\u2466.0.0.1/x",
        "xn--.example/\u200b",
        "localhost./x",
        "10.0.0.5./x",
        "[::1/x",
        "::1]/x",
        "[]:5000/x",
        "[::1]x/y",
        "[::1]:/y",
        "[fe80::1%eth0]:5000/x",
        "[fe80::1%25eth0]:5000/x",
        "host.example:-1/x",
        "host.example:0x50/x",
        "host.example:80:80/x",
        "busybox@sha256:" + "0" * 63,
        "busybox@sha256:" + "0" * 65,
        "busybox@sha256:" + "g" * 64,
        "busybox@" + "0" * 64,
    ],
)
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    """What is no reference is an invalid request that names the field and shows the forms."""
    with pytest.raises(InvalidRequest, match="Write NAME") as caught:
        parse_reference(text)

    assert caught.value.members["field"] == "image"


@given(st.text(max_size=60))
def test_no_text_becomes_an_option_or_a_transport(text: str) -> None:
    """Whatever is accepted is a registry, a path, a tag and a digest, none of which a program takes for an option."""
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return
    full = str(reference)
    assert not full.startswith("-")
    assert not set(full) & set(" \t\r\n\0\\;|&$`'\"<>*?{}()!%")
    assert parse_reference(full) == reference


def test_a_pinned_reference_has_the_digest_alone() -> None:
    """A tag can move; what is pinned names the digest and nothing else."""
    pinned = parse_reference("ghcr.io/a/b:v1").pinned(Digest(DIGEST))

    assert str(pinned) == f"ghcr.io/a/b@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "host"), [("[::1]:5000/x", "::1"), ("LOCALHOST:1/x", "localhost"), ("a.B.c/x", "a.b.c")]
)
def test_the_host_is_what_is_looked_up(text: str, host: str) -> None:
    """Port, brackets and capitals are no part of the host."""
    assert parse_reference(text).host == host
