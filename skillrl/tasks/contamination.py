"""What keeps evaluation out of training: one name for every repository, a list of those that are evaluated on, splits
by repository, and overlap of texts and patches with evaluation sets.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NGRAM_WORDS = 13

# Forks, mirrors and former names -> the repository that they are.
ALIASES = {
    "alanmcruickshank/sqlfluff": "sqlfluff/sqlfluff",
    "antirez/redis": "redis/redis",
    "facebook/immutable-js": "immutable-js/immutable-js",
    "kennethreitz/requests": "psf/requests",
    "requests/requests": "psf/requests",
    "mholt/caddy": "caddyserver/caddy",
    "mitsuhiko/flask": "pallets/flask",
    "pycqa/astroid": "pylint-dev/astroid",
    "pycqa/pylint": "pylint-dev/pylint",
    "spf13/hugo": "gohugoio/hugo",
    "stedolan/jq": "jqlang/jq",
    "stympy/faker": "faker-ruby/faker",
    "bbatsov/rubocop": "rubocop/rubocop",
    "rubocop-hq/rubocop": "rubocop/rubocop",
    "charliermarsh/ruff": "astral-sh/ruff",
    "friendsofphp/php-cs-fixer": "php-cs-fixer/php-cs-fixer",
    "phpoffice/phpexcel": "phpoffice/phpspreadsheet",
    "rzwitserloot/lombok": "projectlombok/lombok",
    "ansible/ansible-base": "ansible/ansible",
    "ggml-org/llama.cpp": "ggerganov/llama.cpp",
    "run-llama/llama_index": "jerryjliu/llama_index",
    "tracel-ai/burn": "burn-rs/burn",
    "tiangolo/fastapi": "fastapi/fastapi",
    "facebook/tornado": "tornadoweb/tornado",
    # Packages of PyPI whose sources these are.
    "pypi/ansible": "ansible/ansible",
    "pypi/ansible-core": "ansible/ansible",
    "pypi/apache-airflow": "apache/airflow",
    "pypi/astroid": "pylint-dev/astroid",
    "pypi/astropy": "astropy/astropy",
    "pypi/awscli": "aws/aws-cli",
    "pypi/bentoml": "bentoml/bentoml",
    "pypi/celery": "celery/celery",
    "pypi/conan": "conan-io/conan",
    "pypi/django": "django/django",
    "pypi/fastapi": "fastapi/fastapi",
    "pypi/flask": "pallets/flask",
    "pypi/haystack-ai": "deepset-ai/haystack",
    "pypi/llama-index": "jerryjliu/llama_index",
    "pypi/llama-index-core": "jerryjliu/llama_index",
    "pypi/marshmallow": "marshmallow-code/marshmallow",
    "pypi/matplotlib": "matplotlib/matplotlib",
    "pypi/mne": "mne-tools/mne-python",
    "pypi/pvlib": "pvlib/pvlib-python",
    "pypi/pydicom": "pydicom/pydicom",
    "pypi/pylint": "pylint-dev/pylint",
    "pypi/pytest": "pytest-dev/pytest",
    "pypi/pyvista": "pyvista/pyvista",
    "pypi/qutebrowser": "qutebrowser/qutebrowser",
    "pypi/requests": "psf/requests",
    "pypi/ruff": "astral-sh/ruff",
    "pypi/salt": "saltstack/salt",
    "pypi/scikit-learn": "scikit-learn/scikit-learn",
    "pypi/scrapy": "scrapy/scrapy",
    "pypi/seaborn": "mwaskom/seaborn",
    "pypi/sphinx": "sphinx-doc/sphinx",
    "pypi/sqlfluff": "sqlfluff/sqlfluff",
    "pypi/sympy": "sympy/sympy",
    "pypi/tornado": "tornadoweb/tornado",
    "pypi/transformers": "huggingface/transformers",
    "pypi/xarray": "pydata/xarray",
}

# Set -> its repositories. No training reader gives a task of any of them. Sources: the parser tables of the swebench
# package 5.0.2; scaleapi/SWE-bench_Pro-os f0cf534 (the public part); microsoft/RefactorBench 7d7637d;
# logic-star-ai/codetaste 1f89e4e. SEC-bench and CyberGym are compared as task sets (`Overlap`).
EVALUATED = {
    "SWE-bench": """astropy/astropy django/django matplotlib/matplotlib mwaskom/seaborn pallets/flask psf/requests
        pydata/xarray pylint-dev/pylint pytest-dev/pytest scikit-learn/scikit-learn sphinx-doc/sphinx sympy/sympy""",
    "SWE-bench (dev)": """marshmallow-code/marshmallow pvlib/pvlib-python pydicom/pydicom pylint-dev/astroid
        pyvista/pyvista sqlfluff/sqlfluff""",
    "SWE-bench Multilingual": """apache/druid apache/lucene astral-sh/ruff axios/axios babel/babel briannesbitt/carbon
        burntsushi/ripgrep caddyserver/caddy facebook/docusaurus faker-ruby/faker fastlane/fastlane fluent/fluentd
        fmtlib/fmt gin-gonic/gin gohugoio/hugo google/gson hashicorp/terraform immutable-js/immutable-js
        javaparser/javaparser jekyll/jekyll jordansissel/fpm jqlang/jq laravel/framework micropython/micropython
        mrdoob/three.js nlohmann/json nushell/nushell php-cs-fixer/php-cs-fixer phpoffice/phpspreadsheet
        preactjs/preact projectlombok/lombok prometheus/prometheus reactivex/rxjava redis/redis rubocop/rubocop
        sharkdp/bat tokio-rs/axum tokio-rs/tokio uutils/coreutils valkey-io/valkey vuejs/core""",
    "SWE-bench Pro": """ansible/ansible element-hq/element-web flipt-io/flipt future-architect/vuls
        gravitational/teleport internetarchive/openlibrary navidrome/navidrome nodebb/nodebb protonmail/webclients
        qutebrowser/qutebrowser tutao/tutanota""",
    "RefactorBench": """ansible/ansible celery/celery django/django fastapi/fastapi pallets/flask psf/requests
        saltstack/salt scrapy/scrapy tornadoweb/tornado""",
    "CodeTaste": """99designs/gqlgen ansible/ansible antvis/g6 apache/airflow apache/flink apache/hadoop apache/hbase
        apache/nuttx apache/pinot apache/pulsar apache/shardingsphere apache/shenyu aquasecurity/tracee
        aws/aws-cli bentoml/bentoml bevyengine/bevy burn-rs/burn bytebase/bytebase chaos-mesh/chaos-mesh
        chroma-core/chroma cilium/cilium clientio/joint conan-io/conan containerd/nerdctl cosmos/cosmos-sdk
        datadog/datadog-agent deepset-ai/haystack elastic/eui endless-sky/endless-sky ethereum/go-ethereum
        excalidraw/excalidraw fabricjs/fabric.js getsentry/sentry ggerganov/llama.cpp go-gitea/gitea
        gohugoio/hugo golang/go golangci/golangci-lint google/gvisor google/tink gradle/gradle
        hashicorp/consul highcharts/highcharts hrydgard/ppsspp huggingface/transformers immich-app/immich
        influxdata/influxdb istio/istio jerryjliu/llama_index keycloak/keycloak knative/serving koajs/koa
        kubevirt/kubevirt lima-vm/lima loft-sh/vcluster mne-tools/mne-python mockito/mockito
        mongodb/mongo-go-driver monkeytypegame/monkeytype n8n-io/n8n nationalsecurityagency/ghidra
        netty/netty nhost/nhost opensearch-project/opensearch prestashop/prestashop prisma/prisma
        pulumi/pulumi python/cpython pyvista/pyvista quarkusio/quarkus remarkablemark/html-react-parser
        ruffle-rs/ruffle rust-lang/rust saleor/saleor scikit-learn/scikit-learn syncthing/syncthing
        temporalio/temporal tinymce/tinymce toeverything/affine tuskyapp/tusky twosigma/beakerx
        vitessio/vitess wader/fq web-infra-dev/modern.js webpack/webpack wikimedia/apps-android-wikipedia""",
}
# Of a repository that several sets have, the first one is named.
BLOCKLIST: Mapping[str, str] = {
    name: set_name for set_name, names in reversed(EVALUATED.items()) for name in names.split()
}


def repository_key(name: str) -> str:
    """One spelling for a repository, its forks and its mirrors: `github:owner/name`, lower case.

    `pypi:name`, or `repo:name` of a project that is only on this machine, where nobody knows a repository by that name.
    """
    name = name.strip().lower().removesuffix(".git").removesuffix("/")
    name = re.sub(r"^(https?://|git@|ssh://git@)?(www\.)?github\.com[/:]", "", name).removeprefix("github:")
    if name.startswith("swesmith/"):
        name = re.sub(r"\.[0-9a-f]{8}$", "", name.removeprefix("swesmith/")).replace("__", "/", 1)
    if name.startswith(("pypi:", "repo:")):
        where, _, project = name.partition(":")
        bare = re.sub(r"[-_.]+", "-", project)
        name = ALIASES.get(f"pypi/{bare}", "")
        return f"github:{name}" if name else f"{where}:{bare}"
    return f"github:{ALIASES.get(name, name)}"


def evaluated_in(repository: str, more: Iterable[str] = ()) -> str:
    """The evaluation set that a repository is in, empty for none. `more` are further repository keys."""
    key = repository_key(repository)
    return BLOCKLIST.get(key.removeprefix("github:"), "another evaluation set" if key in set(more) else "")


def split_of(repository: str, heldout_share: float, seed: int = 0) -> str:
    """ "train" or "heldout_repositories": the same for all instances of a repository, its forks and mirrors."""
    digest = hashlib.sha256(f"{seed}|{repository_key(repository)}".encode()).digest()
    return "heldout_repositories" if int.from_bytes(digest[:8]) < heldout_share * 2**64 else "train"


def ngrams(text: str, words: int = NGRAM_WORDS) -> set[str]:
    """Runs of so many words, lower-cased; a shorter text is one run."""
    found = re.findall(r"\w+", text.lower())
    if not found:
        return set()
    return {" ".join(found[i : i + words]) for i in range(max(1, len(found) - words + 1))}


@dataclass
class Overlap:
    """What evaluation sets hold, to compare training records with."""

    repositories: set[str] = field(default_factory=set)
    patch_ids: set[str] = field(default_factory=set)
    grams: set[str] = field(default_factory=set)

    def add(self, repository: str, statement: str, patch_ids: Iterable[str]) -> None:
        """Adds one evaluated instance. `patch_ids` as of `readers.diffs.patch_id`."""
        self.repositories.add(repository_key(repository))
        self.patch_ids.update(patch_ids)
        # A text shorter than a run says too little.
        if len(re.findall(r"\w+", statement)) >= NGRAM_WORDS:
            self.grams |= ngrams(statement)

    def reason(self, repository: str, statement: str, patch_id: str) -> str:
        """Why a training record must not be used; empty when it may."""
        if name := evaluated_in(repository, self.repositories):
            return f"its repository is in {name}"
        if patch_id in self.patch_ids:
            return "its patch is in an evaluation set"
        if len(re.findall(r"\w+", statement)) >= NGRAM_WORDS and not self.grams.isdisjoint(ngrams(statement)):
            return f"its statement shares {NGRAM_WORDS} words with an evaluation set"
        return ""
