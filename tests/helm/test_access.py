"""How clients reach the router, and how it grows with them."""

from collections.abc import Callable
from typing import Any

import pytest

Render = Callable[..., list[dict[str, Any]]]
Refusal = Callable[..., str]


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def service(objects: list[dict[str, Any]]) -> dict[str, Any]:
    named = [
        item for item in objects if item["kind"] == "Service" and item["metadata"]["name"] == "octavo-router"
    ]
    spec: dict[str, Any] = named[0]["spec"]
    return spec


def test_nothing_leads_in_from_outside_by_default(render: Render) -> None:
    objects = render()
    assert not [item for item in objects if item["kind"] in ("Ingress", "HTTPRoute")]
    assert service(objects)["type"] == "ClusterIP"


def test_an_ingress_leads_every_host_to_the_api(render: Render) -> None:
    hosts = ("a.example", "b.example")
    tls = '[{"hosts": ["a.example"], "secretName": "cert"}]'
    given = (f"router.ingress.hosts={list(hosts)}".replace("'", '"'), f"router.ingress.tls={tls}")
    ingress = only(
        render("router.ingress.enabled=true", 'router.ingress.className="nginx"', *given), "Ingress"
    )
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"hosts": ["a.example"], "secretName": "cert"}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == list(hosts)
    for rule in ingress["spec"]["rules"]:
        (path,) = rule["http"]["paths"]
        assert path["backend"] == {"service": {"name": "octavo-router", "port": {"name": "http"}}}


def test_an_ingress_without_hosts_takes_any(render: Render) -> None:
    (rule,) = only(render("router.ingress.enabled=true"), "Ingress")["spec"]["rules"]
    assert rule.keys() == {"http"}


def test_a_route_hangs_on_its_gateways_and_lets_streams_last(render: Render) -> None:
    gateways = 'router.httpRoute.parentRefs=[{"name": "public", "namespace": "gateways"}]'
    names = 'router.httpRoute.hostnames=["llm.example"]'
    spec = only(
        render("router.httpRoute.enabled=true", gateways, names, "router.service.port=81"), "HTTPRoute"
    )["spec"]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    assert spec["hostnames"] == ["llm.example"]
    (rule,) = spec["rules"]
    assert rule["timeouts"] == {"request": "0s"}
    assert rule["backendRefs"] == [{"name": "octavo-router", "port": 81}]


def test_a_route_without_a_gateway_is_refused(refusal: Refusal) -> None:
    assert "'/router/httpRoute/parentRefs': minItems" in refusal("router.httpRoute.enabled=true")


def test_the_load_balancer_is_as_asked_for(render: Render) -> None:
    spec = service(
        render(
            'router.service.type="LoadBalancer"',
            "router.service.nodePort=30080",
            'router.service.loadBalancerClass="example.com/internal"',
            'router.service.loadBalancerSourceRanges=["10.0.0.0/8"]',
            'router.service.externalTrafficPolicy="Local"',
        )
    )
    assert spec["ports"] == [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080}]
    assert spec["loadBalancerClass"] == "example.com/internal"
    assert spec["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert spec["externalTrafficPolicy"] == "Local"


def test_an_autoscaler_has_the_number_of_routers_to_itself(render: Render) -> None:
    objects = render("router.autoscaling.enabled=true", "router.autoscaling.maxReplicas=5")
    spec = only(objects, "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    deployments = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Deployment"}
    assert "replicas" not in deployments[spec["scaleTargetRef"]["name"]]
    assert deployments["octavo-operator"]["replicas"] == 2


@pytest.mark.parametrize("component", ["operator", "router"])
def test_more_volumes_reach_the_pods(component: str, render: Render) -> None:
    volume, mount = '{"name": "ca", "configMap": {"name": "ca"}}', '{"name": "ca", "mountPath": "/ca"}'
    objects = render(f"{component}.extraVolumes=[{volume}]", f"{component}.extraVolumeMounts=[{mount}]")
    deployments = [item for item in objects if item["kind"] == "Deployment"]
    (spec,) = [
        d["spec"]["template"]["spec"] for d in deployments if d["metadata"]["name"] == f"octavo-{component}"
    ]
    assert spec["volumes"][-1] == {"name": "ca", "configMap": {"name": "ca"}}
    assert spec["containers"][0]["volumeMounts"][-1] == {"name": "ca", "mountPath": "/ca"}
