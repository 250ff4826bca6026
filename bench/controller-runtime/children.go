package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	deploymentLabel = "octavo.dev/deployment"
	managedByLabel  = "app.kubernetes.io/managed-by"
	hashAnnotation  = "octavo.dev/desired-hash"
	user            = int64(65532)
)

// child is one object that is wanted: how to tell that the one there is right, and how to make it so.
type child struct {
	wanted client.Object
	empty  client.Object
	right  func(found client.Object) bool
	adopt  func(found client.Object)
}

func labels(name string) map[string]string {
	return map[string]string{
		deploymentLabel: name, managedByLabel: "octavo",
		"app.kubernetes.io/name": "octavo-engine", "app.kubernetes.io/instance": name,
	}
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{deploymentLabel: name}}
}

func meta(llmd *LLMDeployment, content any) metav1.ObjectMeta {
	encoded, _ := json.Marshal(content)
	sum := sha256.Sum256(encoded)
	return metav1.ObjectMeta{
		Name: llmd.Name, Namespace: llmd.Namespace, Labels: labels(llmd.Name),
		Annotations:     map[string]string{hashAnnotation: hex.EncodeToString(sum[:8])},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(llmd, groupVersion.WithKind("LLMDeployment"))},
	}
}

func children(llmd *LLMDeployment, image string) []child {
	wanted := []child{account(llmd), service(llmd), budget(llmd), deployment(llmd, image)}
	if llmd.Spec.Autoscaling != nil {
		wanted = append(wanted, autoscaler(llmd))
	}
	return wanted
}

func account(llmd *LLMDeployment) child {
	wanted := &corev1.ServiceAccount{ObjectMeta: meta(llmd, "account"), AutomountServiceAccountToken: ptr.To(false)}
	return child{wanted, &corev1.ServiceAccount{},
		func(found client.Object) bool {
			return ptr.Equal(found.(*corev1.ServiceAccount).AutomountServiceAccountToken, wanted.AutomountServiceAccountToken)
		},
		func(found client.Object) {
			found.(*corev1.ServiceAccount).AutomountServiceAccountToken = wanted.AutomountServiceAccountToken
		}}
}

func service(llmd *LLMDeployment) child {
	spec := corev1.ServiceSpec{
		Selector: selector(llmd.Name).MatchLabels,
		Ports:    []corev1.ServicePort{{Name: "http", Port: 8000, TargetPort: intstr.FromString("http"), Protocol: "TCP"}},
	}
	return child{&corev1.Service{ObjectMeta: meta(llmd, spec), Spec: spec}, &corev1.Service{},
		func(found client.Object) bool {
			return equality.Semantic.DeepDerivative(spec, found.(*corev1.Service).Spec)
		},
		func(found client.Object) {
			there := &found.(*corev1.Service).Spec
			there.Selector, there.Ports = spec.Selector, spec.Ports
		}}
}

func budget(llmd *LLMDeployment) child {
	spec := policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: selector(llmd.Name)}
	return child{&policyv1.PodDisruptionBudget{ObjectMeta: meta(llmd, spec), Spec: spec}, &policyv1.PodDisruptionBudget{},
		func(found client.Object) bool {
			return equality.Semantic.DeepDerivative(spec, found.(*policyv1.PodDisruptionBudget).Spec)
		},
		func(found client.Object) { found.(*policyv1.PodDisruptionBudget).Spec = spec }}
}

func autoscaler(llmd *LLMDeployment) child {
	auto := llmd.Spec.Autoscaling
	depth := resource.NewQuantity(ptr.Deref(auto.QueueDepth, 4), resource.DecimalSI)
	spec := autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: llmd.Name},
		MinReplicas:    ptr.To(ptr.Deref(auto.MinReplicas, 1)),
		MaxReplicas:    auto.MaxReplicas,
		Metrics: []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.PodsMetricSourceType,
			Pods: &autoscalingv2.PodsMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: "octavo_num_requests_waiting"},
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: depth},
			},
		}},
	}
	return child{&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: meta(llmd, spec), Spec: spec}, &autoscalingv2.HorizontalPodAutoscaler{},
		func(found client.Object) bool {
			return equality.Semantic.DeepDerivative(spec, found.(*autoscalingv2.HorizontalPodAutoscaler).Spec)
		},
		func(found client.Object) { found.(*autoscalingv2.HorizontalPodAutoscaler).Spec = spec }}
}

func deployment(llmd *LLMDeployment, image string) child {
	spec := appsv1.DeploymentSpec{
		Selector: selector(llmd.Name), RevisionHistoryLimit: ptr.To(int32(3)), ProgressDeadlineSeconds: ptr.To(int32(2100)),
		Strategy: appsv1.DeploymentStrategy{Type: "RollingUpdate", RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
		}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(llmd.Name)}, Spec: pod(llmd, image)},
	}
	if llmd.Spec.Autoscaling == nil {
		spec.Replicas = ptr.To(ptr.Deref(llmd.Spec.Replicas, 1))
	}
	return child{&appsv1.Deployment{ObjectMeta: meta(llmd, spec), Spec: spec}, &appsv1.Deployment{},
		func(found client.Object) bool {
			return equality.Semantic.DeepDerivative(spec, found.(*appsv1.Deployment).Spec)
		},
		func(found client.Object) {
			there := &found.(*appsv1.Deployment).Spec
			replicas := there.Replicas
			*there = spec
			if spec.Replicas == nil {
				there.Replicas = replicas
			}
		}}
}

func pod(llmd *LLMDeployment, image string) corev1.PodSpec {
	return corev1.PodSpec{
		ServiceAccountName: llmd.Name, AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
		TerminationGracePeriodSeconds: ptr.To(int64(135)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(user), RunAsGroup: ptr.To(user), FSGroup: ptr.To(user),
			FSGroupChangePolicy: ptr.To(corev1.FSGroupChangeOnRootMismatch),
			SeccompProfile:      &corev1.SeccompProfile{Type: "RuntimeDefault"},
		},
		Containers: []corev1.Container{engine(llmd, image)},
		Volumes: []corev1.Volume{
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "shm", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}}},
		},
	}
}

func engine(llmd *LLMDeployment, image string) corev1.Container {
	return corev1.Container{
		Name: "engine", Image: image,
		Args:         []string{"serve", llmd.Spec.Model.Source, "--served-model-name", llmd.Name, "--port", "8000"},
		Env:          []corev1.EnvVar{{Name: "HOME", Value: "/tmp"}},
		Ports:        []corev1.ContainerPort{{Name: "http", ContainerPort: 8000, Protocol: "TCP"}},
		VolumeMounts: []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}, {Name: "shm", MountPath: "/dev/shm"}},
		Lifecycle:    &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		TerminationMessagePolicy: "FallbackToLogsOnError",
		StartupProbe:             probe("/healthz", 2, 900),
		LivenessProbe:            probe("/healthz", 10, 3),
		ReadinessProbe:           probe("/readyz", 2, 1),
	}
}

func probe(path string, period, failures int32) *corev1.Probe {
	get := &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http")}
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: get}, PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: 5, SuccessThreshold: 1,
	}
}
