"""What the README shows is run, as far as it is Python: the same code, at the addresses of a provider that is there."""

import re
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
ISSUER = "https://id.example.org/realms/lab"
API = "https://api.example.org/runs"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def run(fake_provider, loginonce_home, monkeypatch):
    """Runs a block of the README with the provider's addresses in place of the example's."""
    provider = fake_provider
    service, secret = provider.confidential_client
    monkeypatch.setenv("LOGINONCE_CLIENT_SECRET", "")
    (loginonce_home).mkdir(exist_ok=True)
    (loginonce_home / "config.toml").write_text(
        f'[profiles.lab]\nissuer = "{provider.issuer}"\nclient_id = "{provider.public_client_id}"\n'
        'scope = "openid offline_access"\n'
    )
    import loginonce

    signed_in = loginonce.Session("lab")
    signed_in.login(tokens=provider.issue())

    def run(block, **names):
        if 'grant="client_credentials"' in block:
            monkeypatch.setenv("LOGINONCE_CLIENT_SECRET", secret)
            block = block.replace('client_id="service"', f'client_id="{service}"').replace("runs:read", "openid")
        block = block.replace(ISSUER, provider.issuer).replace(API, provider.api("/runs"))
        names = {"loginonce": loginonce, "lab": signed_in, **names}
        exec(compile(textwrap.dedent(block), "README.md", "exec"), names)  # noqa: S102 - it is our own README
        return names

    return run


@pytest.mark.parametrize("block", [b for b in python_blocks() if "def test_" not in b])
def test_an_example_of_the_readme_runs_as_it_stands(run, block, capsys):
    names = run(block)
    for session in {value for value in names.values() if isinstance(value, names["loginonce"].Session)}:
        session.close()  # `keep_fresh` goes on until then
    if "print(lab.account)" in block:
        assert capsys.readouterr().out.strip() == "Ada Lovelace"
        assert names["runs"]["subject"] == "ada"


def test_the_test_that_the_readme_shows_passes(run, fake_provider_factory, loginonce_home):
    (block,) = [b for b in python_blocks() if "def test_" in b]
    names = run(block)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test(fake_provider_factory, loginonce_home)


def test_the_two_places_of_a_refresh_are_where_the_readme_says(run):
    from loginonce import refresh, source

    assert callable(refresh.decide)
    assert callable(source._Run._drive)
    for target in re.findall(r"\]\((sdk/[^)]+)\)", README.read_text("utf-8")):
        assert (README.parent / target).is_file()
