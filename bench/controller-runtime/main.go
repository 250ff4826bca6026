// The yardstick of bench/control_plane.py: the same children and conditions as Octavo's operator, written as
// one writes them with controller-runtime.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	klabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

type reconciler struct {
	client.Client
	image string
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	llmd := &LLMDeployment{}
	if err := r.Get(ctx, request.NamespacedName, llmd); err != nil || llmd.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	for _, wanted := range children(llmd, r.image) {
		if err := r.make(ctx, wanted); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, r.report(ctx, llmd)
}

func (r *reconciler) make(ctx context.Context, wanted child) error {
	found := wanted.empty
	err := r.Get(ctx, client.ObjectKeyFromObject(wanted.wanted), found)
	if apierrors.IsNotFound(err) {
		return r.Create(ctx, wanted.wanted)
	}
	if err != nil {
		return err
	}
	hash := wanted.wanted.GetAnnotations()[hashAnnotation]
	if found.GetAnnotations()[hashAnnotation] == hash && wanted.right(found) {
		return nil
	}
	wanted.adopt(found)
	found.SetLabels(wanted.wanted.GetLabels())
	found.SetAnnotations(wanted.wanted.GetAnnotations())
	return r.Update(ctx, found)
}

func (r *reconciler) report(ctx context.Context, llmd *LLMDeployment) error {
	found := &appsv1.Deployment{}
	if err := r.Get(ctx, client.ObjectKeyFromObject(llmd), found); client.IgnoreNotFound(err) != nil {
		return err
	}
	before := llmd.DeepCopy()
	status := &llmd.Status
	status.ObservedGeneration = llmd.Generation
	status.Replicas, status.ReadyReplicas = found.Status.Replicas, found.Status.ReadyReplicas
	wanted := int32(1)
	if found.Spec.Replicas != nil {
		wanted = *found.Spec.Replicas
	}
	status.Ready = fmt.Sprintf("%d/%d", status.ReadyReplicas, wanted)
	status.Selector = deploymentLabel + "=" + llmd.Name
	ready := status.ReadyReplicas == wanted
	r.set(llmd, "Ready", ready)
	r.set(llmd, "Reconciling", !ready)
	r.set(llmd, "Stalled", false)
	r.set(llmd, "Available", status.ReadyReplicas > 0)
	patch := client.MergeFrom(before)
	if data, err := patch.Data(llmd); err != nil || string(data) == "{}" {
		return err
	}
	return client.IgnoreNotFound(r.Status().Patch(ctx, llmd, patch))
}

func (r *reconciler) set(llmd *LLMDeployment, kind string, holds bool) {
	status, reason := metav1.ConditionFalse, "Loading"
	if holds {
		status = metav1.ConditionTrue
	}
	if llmd.Status.ReadyReplicas > 0 {
		reason = "AllPodsReady"
	}
	apimeta.SetStatusCondition(&llmd.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: "the pod is starting or loading the model",
		ObservedGeneration: llmd.Generation,
	})
}

func main() {
	namespaces := flag.String("namespaces", "", "namespaces to watch, with commas between; none: all")
	address := flag.String("metrics", "127.0.0.1:0", "address of /metrics")
	health := flag.String("health", "127.0.0.1:0", "address of /readyz")
	image := flag.String("image", "octavo-engine:bench", "image of the engine")
	elect := flag.Bool("elect", false, "elect a leader")
	home := flag.String("home", "default", "namespace of the Lease")
	flag.Parse()
	ctrl.SetLogger(zap.New())
	if err := run(*namespaces, *address, *health, *image, *elect, *home); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(namespaces, address, health, image string, elect bool, home string) error {
	if err := addToScheme(scheme.Scheme); err != nil {
		return err
	}
	config := ctrl.GetConfigOrDie()
	config.QPS = -1
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                  scheme.Scheme,
		Cache:                   cached(namespaces),
		Metrics:                 server.Options{BindAddress: address},
		HealthProbeBindAddress:  health,
		LeaderElection:          elect,
		LeaderElectionID:        "controller-runtime-bench",
		LeaderElectionNamespace: home,
	})
	if err != nil {
		return err
	}
	if err := manager.AddReadyzCheck("readyz", healthz.Ping); err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(manager).For(&LLMDeployment{}).
		Owns(&appsv1.Deployment{}).Owns(&corev1.Service{}).Owns(&corev1.ServiceAccount{}).
		Owns(&policyv1.PodDisruptionBudget{}).Owns(&autoscalingv2.HorizontalPodAutoscaler{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 32}).
		Complete(&reconciler{manager.GetClient(), image})
	if err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}

// cached holds, as Octavo's caches do, only children that carry the operator's label.
func cached(namespaces string) cache.Options {
	ours := klabels.SelectorFromSet(klabels.Set{managedByLabel: "octavo"})
	options := cache.Options{ByObject: map[client.Object]cache.ByObject{}}
	for _, kind := range []client.Object{
		&appsv1.Deployment{}, &corev1.Service{}, &corev1.ServiceAccount{},
		&policyv1.PodDisruptionBudget{}, &autoscalingv2.HorizontalPodAutoscaler{},
	} {
		options.ByObject[kind] = cache.ByObject{Label: ours}
	}
	if namespaces != "" {
		options.DefaultNamespaces = map[string]cache.Config{}
		for _, name := range strings.Split(namespaces, ",") {
			options.DefaultNamespaces[name] = cache.Config{}
		}
	}
	return options
}
