package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var groupVersion = schema.GroupVersion{Group: "octavo.dev", Version: "v1alpha1"}

// LLMDeployment has what this operator reads of the resource; the rest of the spec is not kept.
type LLMDeployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              Spec   `json:"spec"`
	Status            Status `json:"status,omitempty"`
}

type Spec struct {
	Model struct {
		Source string `json:"source"`
	} `json:"model"`
	Replicas    *int32       `json:"replicas,omitempty"`
	Autoscaling *Autoscaling `json:"autoscaling,omitempty"`
}

type Autoscaling struct {
	MinReplicas *int32 `json:"minReplicas,omitempty"`
	MaxReplicas int32  `json:"maxReplicas"`
	QueueDepth  *int64 `json:"queueDepth,omitempty"`
}

type Status struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Replicas           int32              `json:"replicas"`
	ReadyReplicas      int32              `json:"readyReplicas"`
	Ready              string             `json:"ready,omitempty"`
	Selector           string             `json:"selector,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

type LLMDeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LLMDeployment `json:"items"`
}

func copied[T any](value *T) *T {
	if value == nil {
		return nil
	}
	fresh := *value
	return &fresh
}

func (in *LLMDeployment) DeepCopy() *LLMDeployment {
	out := *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.Replicas = copied(in.Spec.Replicas)
	if auto := copied(in.Spec.Autoscaling); auto != nil {
		auto.MinReplicas, auto.QueueDepth = copied(auto.MinReplicas), copied(auto.QueueDepth)
		out.Spec.Autoscaling = auto
	}
	out.Status.Conditions = append([]metav1.Condition(nil), in.Status.Conditions...)
	return &out
}

func (in *LLMDeployment) DeepCopyObject() runtime.Object { return in.DeepCopy() }

func (in *LLMDeploymentList) DeepCopyObject() runtime.Object {
	out := *in
	in.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]LLMDeployment, len(in.Items))
	for i := range in.Items {
		out.Items[i] = *in.Items[i].DeepCopy()
	}
	return &out
}

func addToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(groupVersion, &LLMDeployment{}, &LLMDeploymentList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	return nil
}
