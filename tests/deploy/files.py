"""Whether what deploy/ ships for containers parses, is valid, and names only what there is.

Prints a line for each fault and exits 1 if there is one. Run from the root of the checkout.
"""

import ipaddress
import re
import subprocess
import sys
from pathlib import Path

import yaml

DEPLOY = Path("deploy")
faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def exists(where, path):
    if not path.exists():
        fault(where, f"names {path}, which is not there")


def compose():
    path = DEPLOY / "compose/compose.yaml"
    (file,) = documents(path)
    prepared = (path.parent / "prepare").read_text()
    made = set(re.search(r"for name in (.*);", prepared)[1].split())
    for name, secret in file["secrets"].items():
        if Path(secret["file"]).name not in made:
            fault(path, f"prepare does not make the secret {name}")
    for name, service in file["services"].items():
        where = f"{path}, {name}"
        # A drain ends with 0, so that `on-failure` leaves it down after a reboot.
        if service.get("restart") != "unless-stopped":
            fault(where, "is not started again after a reboot")
        if build := service.get("build"):
            context = path.parent / build["context"]
            exists(where, context / build["dockerfile"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                exists(where, path.parent / source)
            elif source not in file["volumes"]:
                fault(where, f"the volume {source} is not declared")
        if (variables := service.get("env_file")) and Path(variables).name not in prepared:
            fault(where, f"prepare does not make {variables}")
        for secret in service.get("secrets", []):
            if secret not in file["secrets"]:
                fault(where, f"the secret {secret} is not declared")
        for other in service.get("depends_on", {}):
            if other not in file["services"]:
                fault(where, f"depends on {other}, which is no service")
    address = file["services"]["haproxy"]["networks"]["weir"]["ipv4_address"]
    if f'trusted_proxies = ["{address}"]' not in (path.parent / "weir.toml").read_text():
        fault(path, "weir.toml trusts another proxy than haproxy")
    (network,) = file["networks"]["weir"]["ipam"]["config"]
    # Docker gives addresses of this range to whoever starts first.
    given = ipaddress.ip_network(network.get("ip_range", network["subnet"]))
    if ipaddress.ip_address(address) in given:
        fault(path, f"haproxy's {address} is one that another container may be given")
    (scrapes,) = documents(path.parent / "prometheus.yml")
    for job in scrapes["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            if target.split(":")[0] not in file["services"]:
                fault("prometheus.yml", f"scrapes {target}, which is no service")


def docker():
    path = DEPLOY / "docker/Dockerfile"
    ignored = Path(".dockerignore").read_text().splitlines()
    for kept in (line[1:] for line in ignored if line.startswith("!")):
        exists(".dockerignore", Path(kept))
    text = path.read_text()
    for word in ("USER 10001", "HEALTHCHECK", "--locked", "ca-certificates"):
        if word not in text:
            fault(path, f"is without {word}")


def kubernetes():
    for path in DEPLOY.rglob("kustomization.yaml"):
        (file,) = documents(path)
        named = [entry for entry in file.get("resources", [])]
        named += [entry["path"] for entry in file.get("patches", [])]
        for generator in file.get("configMapGenerator", []):
            named += generator["files"]
        for name in named:
            exists(path, path.parent / name)
    manifests = [*(DEPLOY / "kubernetes/base").glob("*.yaml"), DEPLOY / "haproxy/kubernetes.yaml"]
    manifests = [path for path in manifests if path.name != "kustomization.yaml"]
    everything = [document for path in manifests for document in documents(path)]
    kinds = {document["kind"] for document in everything}
    for kind in ("StatefulSet", "Service", "PodDisruptionBudget", "Deployment"):
        if kind not in kinds:
            fault("deploy/kubernetes", f"has no {kind}")
    pods = {}
    for document in everything:
        if document["kind"] in ("StatefulSet", "Deployment"):
            template = document["spec"]["template"]
            label = template["metadata"]["labels"]["app.kubernetes.io/name"]
            pods[label] = template["spec"]["containers"][0]
    for document in everything:
        if document["kind"] == "Service":
            pod = pods[document["spec"]["selector"]["app.kubernetes.io/name"]]
            ports = {port["name"] for port in pod["ports"]}
            for port in document["spec"]["ports"]:
                if port["targetPort"] not in ports:
                    fault(document["metadata"]["name"], f"leads to no port {port['targetPort']}")
    validator = Path(sys.executable).with_name("kubernetes-validate")
    checked = subprocess.run(
        [validator, "--strict", "--quiet", *manifests], capture_output=True, text=True
    )
    if checked.returncode != 0:
        fault("kubernetes-validate", checked.stdout + checked.stderr)


compose()
docker()
kubernetes()
print("\n".join(faults))
sys.exit(1 if faults else 0)
