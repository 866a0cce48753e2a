"""
Running skopeo and umoci, and passing on what they say.

Both get argument lists, an environment of their own and nothing to read; they die with whoever waits for them. What
they say in refusal reaches the person who named the image, so it is freed of log prefixes and of this machine's paths,
and what to do about it is added where that can be told.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mayfly.domain.errors import ImageUnavailable, RuntimeFailed

if TYPE_CHECKING:
    from mayfly.images.proxy import RegistryProxy

log = structlog.get_logger()

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WORDS_MAX_CHARACTERS = 600
REMEDIES = (  # the first that matches; lower case
    (
        ("server gave http response to https client",),
        "The operator can list it in MAYFLY_PLAIN_HTTP_REGISTRIES; with `mayfly up`: --plain-http-registries HOST:PORT",
    ),
    (
        ("unauthorized", "authentication required", "denied", "forbidden"),
        "Check the name; for a private image give your account there: `mayfly registries set HOST USERNAME`, or PUT "
        "/v1/registries/HOST.",
    ),
    (("manifest unknown", "name unknown", "not found"), "Check the name and the tag."),
    (("toomanyrequests", "too many requests"), "The registry limits pulls; try again later."),
    (("connection refused", "no such host", "i/o timeout", "no route"), "Check the registry's name; it may be down."),
    (("x509", "certificate"), "This worker does not trust the registry's certificate."),
    (("invalid reference format",), "The worker's skopeo cannot reach a registry by this form of name."),
    (("no space left",), "The worker's disk is full; its operator has to look."),
)


def machine_architecture() -> str:
    """This machine's architecture, by the name that images use."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


async def skopeo(*arguments: str, work: Path, proxy: RegistryProxy | None = None, kept: tuple[int, ...] = ()) -> bytes:
    """
    Run skopeo, which keeps its own files in *work* (by itself it has one cache for all users, outside the store), and
    has the descriptors *kept*.

    With a *proxy* it reaches the network through that, and in no other way but what the proxy's enclosure leaves.

    Raises: ImageUnavailable.
    """
    options = ("--insecure-policy", "--override-os", "linux", "--override-arch", machine_architecture())
    environment = {"_CONTAINERS_ROOTLESS_UID": "1", "XDG_DATA_HOME": str(work / "skopeo")}
    argv, doing = ["skopeo", *options, "--tmpdir", str(work), *arguments], "fetch the image"
    if proxy is None:
        return await run(argv, doing, environment, kept=kept)
    try:
        return await run(proxy.enter(argv), doing, environment | proxy.environment, kept=(*kept, *proxy.descriptors))
    except ImageUnavailable as failed:
        if (reason := proxy.explain(failed.detail)) is None:
            raise
        raise ImageUnavailable(f"Could not {doing}: {reason}") from failed


async def umoci(*arguments: str) -> None:
    """
    Run umoci.

    Raises: ImageUnavailable.
    """
    await run(["umoci", *arguments], "unpack the image", {})


async def run(argv: Sequence[str], doing: str, environment: Mapping[str, str], *, kept: tuple[int, ...] = ()) -> bytes:
    """
    Run a program to its end and return its stdout; when this task is cancelled, the program is killed first.

    Raises: ImageUnavailable with the program's own words; RuntimeFailed when it is not installed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": PATH, "HOME": "/nonexistent", "LANG": "C.UTF-8", **environment},
            start_new_session=True,
            pass_fds=kept,
        )
    except FileNotFoundError as error:
        raise RuntimeFailed(f"{argv[0]} is not installed on this worker, so no image can be had.") from error
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        words = own_words(stderr.decode(errors="replace"))
        log.info("image.refused", doing=doing, words=words)
        raise ImageUnavailable(f"Could not {doing}: {words}{remedy(words)}")
    return stdout


def own_words(stderr: str) -> str:
    """What a program said last, without its log prefix and without paths of this machine."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    line = lines[-1] if lines else "no reason given"
    if match := re.search(r'msg="((?:[^"\\]|\\.)*)"', line):
        line = re.sub(r"\\(.)", r"\1", match[1])
    line = re.sub(r'^\W*(?:Error parsing image name "[^"]*"|initializing source \S+): ', "", line).lstrip(" ⨯")
    line = re.sub(r"(?:oci|dir|docker-archive|oci-archive):/\S+", "the image store", line)
    line = re.sub(r"(?<![\w:/.])/(?:[\w.-]+/)+[\w.-]*", "...", line)
    line = "".join(character if character.isprintable() else " " for character in line)
    return line[:WORDS_MAX_CHARACTERS].rstrip(". ")


def remedy(words: str) -> str:
    """What a person can do about it, as the end of a sentence and one more; empty where nothing is known."""
    low = words.lower()
    return next((f". {advice}" for signs, advice in REMEDIES if any(sign in low for sign in signs)), ".")
