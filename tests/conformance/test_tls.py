"""Certificates that must not be believed, each made by an authority that the operator trusts, and the one that is."""

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import cast

import pytest

from api.gateway import Gateway
from api.metrics.counters import Counters
from shared.errors import Forbidden, ModelyardError
from shared.refs import Ref, SourceKind
from shared.routing import Router
from shared.settings import Settings, SourceSettings
from tests.fakes.ollama import FakeOllama
from tests.fakes.origin import Origin
from tests.workers.sources.fetching import QUICK, SMALL
from workers.runtimes.ollama import OllamaRuntime
from workers.sources.base import RemoteFile
from workers.sources.https import Https
from workers.sources.huggingface import HuggingFace
from workers.sources.transfer import fetch
from workers.sources.wire.policy import HostPolicy

PAST = ("20200101000000Z", "20200102000000Z")
CONFIG = """
[ca]
default_ca = ours
[ours]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


class Authority:
    """An authority of our own, and what it signs: certificate and key in one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bundle = folder / "ca.pem"
        (folder / "index").touch()
        (folder / "serial").write_text("01")
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
        self._openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ours "
                      "-keyout ca.key -out ca.pem")  # fmt: skip

    def sign(self, name: str, address: str, *, times: tuple[str, str] | None = None) -> Path:
        asked = f"-subj /CN={name} -addext subjectAltName={address} -keyout {name}.key -out {name}.csr"
        self._openssl(f"req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes {asked}")
        when = f"-startdate {times[0]} -enddate {times[1]}" if times else "-days 2"
        self._openssl(
            f"ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.crt {when}"
        )
        both = self._folder / f"{name}.pem"
        both.write_text((self._folder / f"{name}.key").read_text() + (self._folder / f"{name}.crt").read_text())
        return both

    def _openssl(self, command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=self._folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def good(authority: Authority) -> Path:
    return authority.sign("good", "IP:127.0.0.1")


def bring(origin: Origin, partial: Path, bundle: Path | None) -> None:
    settings = SourceSettings(allowed_hosts=[f"127.0.0.1:{origin.port}"], ca_bundle=bundle, read_timeout=5)
    file = RemoteFile("file", f"{origin.url}/file", len(SMALL))
    fetch(file, partial, HostPolicy(settings), settings, lambda: None, lambda _: None, patience=QUICK)


@pytest.mark.fault("A-63")
class TestCertificates:
    def test_the_operators_authority_is_believed(self, authority: Authority, good: Path, tmp_path: Path) -> None:
        with Origin(SMALL, good) as origin:
            bring(origin, tmp_path / "x", authority.bundle)
        assert (tmp_path / "x").read_bytes() == SMALL

    def test_without_the_bundle_it_is_a_stranger(self, good: Path, tmp_path: Path) -> None:
        with Origin(SMALL, good) as origin, pytest.raises(Forbidden) as raised:
            bring(origin, tmp_path / "x", None)
        assert raised.value.code == "tls_error"
        assert "MODELYARD_SOURCES__CA_BUNDLE" in raised.value.hint

    def test_expired(self, authority: Authority, tmp_path: Path) -> None:
        with Origin(SMALL, authority.sign("old", "IP:127.0.0.1", times=PAST)) as origin:
            with pytest.raises(Forbidden, match="expired") as raised:
                bring(origin, tmp_path / "x", authority.bundle)
            assert not origin.seen
        assert raised.value.code == "tls_error"

    def test_of_another_host(self, authority: Authority, tmp_path: Path) -> None:
        with Origin(SMALL, authority.sign("other", "DNS:other.example")) as origin:
            with pytest.raises(Forbidden) as raised:
                bring(origin, tmp_path / "x", authority.bundle)
            assert not origin.seen
        assert raised.value.code == "tls_error"

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    def test_a_version_that_is_too_old(self, authority: Authority, good: Path, tmp_path: Path) -> None:
        origin = Origin(SMALL, good)
        tls = origin._server._tls
        assert tls is not None
        tls.set_ciphers("ALL:@SECLEVEL=0")
        tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1
        with origin, pytest.raises(ModelyardError) as raised:
            bring(origin, tmp_path / "x", authority.bundle)
        assert raised.value.code == "tls_error"

    def test_the_listing_of_the_hub_and_a_urls_first_byte_as_well(self, authority: Authority, good: Path) -> None:
        with Origin(SMALL, good) as origin:
            hosts = [f"127.0.0.1:{origin.port}"]
            with pytest.raises(Forbidden) as listing:
                HuggingFace(SourceSettings.model_validate({"hf_endpoint": origin.url})).resolve(
                    Ref(SourceKind.HUGGINGFACE, "acme/small")
                )
            with pytest.raises(Forbidden) as probe:
                Https(SourceSettings(allowed_hosts=hosts)).resolve(Ref(SourceKind.URL, f"{origin.url}/x.gguf"))
            assert not origin.seen
        assert (listing.value.code, probe.value.code) == ("tls_error", "tls_error")

    def test_there_is_no_setting_that_believes_anybody(self) -> None:
        assert not [name for name in SourceSettings.model_fields if "insecure" in name or "verify" in name]


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_an_ollama_with_a_certificate_of_the_operators_is_believed_by_worker_and_gateway(
    authority: Authority, good: Path, settings: Settings
) -> None:
    with FakeOllama(certificate=good) as fake:
        settings.sources = SourceSettings(ollama_host=fake.url, ca_bundle=authority.bundle)
        assert OllamaRuntime(settings.runners, settings.sources).version() == fake.manners.version

        async def asked() -> int:
            gateway = Gateway(settings, cast("Router", None), lambda _: None, Counters())
            try:
                return (await gateway._http.get(f"{fake.url}/api/version")).status_code
            finally:
                await gateway.stop()

        assert asyncio.run(asked()) == 200
