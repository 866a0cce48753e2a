"""Settings: from the environment, checked, and never a silent default for a mistyped name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.settings import (
    ROLES,
    ApiSettings,
    ClientSettings,
    Settings,
    SettingsError,
    UpSettings,
    WorkerSettings,
    load,
)


def test_a_mistyped_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown MAYFLY_ variable is an error that names the nearest setting."""
    monkeypatch.setenv("MAYFLY_SLOT", "4")

    with pytest.raises(SettingsError, match=r"MAYFLY_SLOT is not a setting\. Did you mean MAYFLY_SLOTS\?"):
        load(WorkerSettings)


def test_nobody_is_sent_to_a_variable_of_the_test_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest name is one that a user can set, though MAYFLY_E2E_CA were nearer."""
    monkeypatch.setenv("MAYFLY_CA", "ca.crt")

    with pytest.raises(SettingsError, match=r"MAYFLY_CA is not a setting\. Did you mean MAYFLY_CA_FILE\?"):
        load(WorkerSettings)


def test_a_value_that_cannot_be_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value is an error that names the variable, the rule and what was given."""
    monkeypatch.setenv("MAYFLY_SLOTS", "none")

    with pytest.raises(SettingsError, match=r"MAYFLY_SLOTS: .*integer.* \(got 'none'\)"):
        load(WorkerSettings)


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (ClientSettings, "MAYFLY_CA_FILE"),
        (ApiSettings, "MAYFLY_GATEWAY_SECRET_FILE"),
        (ApiSettings, "MAYFLY_TLS_KEY_FILE"),
    ],
)
def test_an_empty_path_is_refused(role: type[Settings], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither the current directory nor "none": an empty secret's path must not open the door."""
    monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match=f"^{name}: .*must be a path; leave the variable away"):
        load(role)


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mistakes are two lines, so nobody mends them one start at a time."""
    monkeypatch.setenv("MAYFLY_SLOTS", "0")
    monkeypatch.setenv("MAYFLY_RUNTIME", "podman")

    with pytest.raises(SettingsError) as caught:
        load(WorkerSettings)

    assert len(str(caught.value).splitlines()) == 2


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list setting takes commas and forgives spaces and a trailing comma."""
    monkeypatch.setenv("MAYFLY_PRIVATE_REGISTRIES", "127.0.0.1:5000, registry.lan ,")

    assert load(WorkerSettings).private_registries == ("127.0.0.1:5000", "registry.lan")


def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option given wins over the variable; one not given does not."""
    monkeypatch.setenv("MAYFLY_SLOTS", "3")

    assert load(UpSettings, slots=5).slots == 5
    assert load(UpSettings, slots=None).slots == 3


@pytest.mark.F13
def test_there_may_be_no_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both limits can be configured, or none."""
    monkeypatch.setenv("MAYFLY_MAX_ACTIVATIONS", "none")
    monkeypatch.setenv("MAYFLY_MAX_ACTIVATIONS_PER_USER", "7")

    settings = load(ApiSettings)

    assert settings.max_activations == "none"
    assert settings.max_activations_per_user == 7


def test_settings_do_not_change() -> None:
    """A role's settings are frozen once read."""
    with pytest.raises(ValueError, match="frozen"):
        load(WorkerSettings).slots = 9  # type: ignore[misc]


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES.keys())
def test_every_setting_is_explained(role: type[Settings]) -> None:
    """Each field has its prose, which becomes the reference page."""
    missing = [name for name, field in role.model_fields.items() if not field.description]

    assert missing == []


def test_no_secret_has_a_default() -> None:
    """What is secret comes from a file or from the user; nothing secret is in the code."""
    assert load(ApiSettings).nats_password_file is None
    assert load(ApiSettings).tls_key_file == Path("/run/secrets/mayfly/api.key")


@pytest.mark.D6
@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("ADDRESSES", "10.213.0.0/24", "must be a /20 or larger"),
        ("ADDRESSES", "0.0.0.0/4", "must be a /8 or smaller"),
        ("ADDRESSES", "10.213.0.1/16", "valid IPv4 network"),
        ("DNS", "127.0.0.53", "no loopback address"),
        ("DNS", "1.1.1.1,1.0.0.1,8.8.8.8,8.8.4.4", "at most 3"),
        ("DNS", "resolver.example", "Expected 4 octets"),
        ("ALLOW", "10.0.0.0/8:http", "such as 10.1.2.0/24:443"),
        ("DENY", "example.org", "such as 10.1.2.0/24:443"),
        ("", "yes", "'off' or 'on'"),
    ],
)
def test_what_egress_cannot_be(name: str, value: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake is named with the form that is right, before anything starts."""
    variable = f"MAYFLY_EGRESS{'_' if name else ''}{name}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}: .*{rule}"):
        load(WorkerSettings)


@pytest.mark.D6
def test_egress_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other settings alone do not open anything."""
    monkeypatch.setenv("MAYFLY_EGRESS_ALLOW", "10.1.2.3:443")
    assert load(WorkerSettings).egress_policy() is None
    monkeypatch.setenv("MAYFLY_EGRESS", "on")
    policy = load(UpSettings).egress_policy()
    assert policy is not None
    assert [str(target) for target in policy.allow] == ["10.1.2.3/32:443"]
