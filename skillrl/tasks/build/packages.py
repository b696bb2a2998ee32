"""Packages measured as offline repositories: digests of their source distributions on PyPI, and what their tests need.

All ten ship their tests, carry a permissive licence and were stable over seven runs. Another package works too; its
digest is then printed and stored with the set.
"""

# NAME==VERSION -> sha256 of the source distribution.
DIGESTS = {
    "boltons==26.2.0": "d39cfd15c1a1c3bd4d705c82252fa9edb8e4f5e8cc039f8e39afac7b1b47e92c",
    "cachetools==8.0.1": "deb1d376d4d28c2f33f3e3058043b005e0af75c35c094bd54053e27d2906ad95",
    "humanize==4.17.0": "1d6a36c453dbfbb3f0b34601d2e0b4ce5d48d780305cd45714843f0068fde6ac",
    "inflection==0.5.1": "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417",
    "itsdangerous==2.2.0": "e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173",
    "parse==1.22.4": "706d458feed5a81b02768d3156e8070baf6cee7d150a3a3c0cd43101a875c3b5",
    "python-slugify==9.2.0": "cee32948083476013804de1667724fb1362dacb71e47b1d5d92adf8db6ee3298",
    "semver==3.1.1": "149b26cabada6f63212f97e94505d21578cb1d280cf714827f328d5e70765fea",
    "tabulate==0.10.0": "e2cfde8f79420f6deeffdeda9aaec3b6bc5abce947655d17ac662b126e48a60d",
    "toolz==1.2.0": "9667a038e9d6ecba37995e26cb2f59ec6420b6ad8dd9677de59db9b956b08490",
}

# NAME==VERSION -> distributions that its tests need beside pytest.
TEST_PACKAGES = {
    "itsdangerous==2.2.0": ("freezegun==1.5.5", "python-dateutil==2.9.0.post0", "six==1.17.0"),
    "python-slugify==9.2.0": ("text-unidecode==1.3",),
}
