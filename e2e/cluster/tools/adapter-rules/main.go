// Reads rules as prometheus-adapter does, by its own packages. For each series that is named behind the file
// it prints the metric's name, and what Prometheus is asked for two pods.
package main

import (
	"fmt"
	"os"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/prometheus-adapter/pkg/client"
	"sigs.k8s.io/prometheus-adapter/pkg/config"
	"sigs.k8s.io/prometheus-adapter/pkg/naming"
)

const namespace = "ml"

var pods = []string{"llama-0", "llama-1"}

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(file string, series []string) error {
	rules, err := config.FromFile(file)
	if err != nil {
		return err
	}
	namers, err := naming.NamersFromConfig(rules.Rules, resources())
	if err != nil {
		return err
	}
	for _, name := range series {
		for _, namer := range namers {
			if err := tell(namer, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func resources() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, meta.RESTScopeRoot)
	return mapper
}

func tell(namer naming.MetricNamer, name string) error {
	one := client.Series{Name: name, Labels: model.LabelSet{"namespace": namespace, "pod": "llama-0"}}
	if metric, err := namer.MetricNameForSeries(one); err != nil || metric == "" {
		return nil // another rule's
	} else {
		query, err := namer.QueryForSeries(name, schema.GroupResource{Resource: "pods"}, namespace, labels.Everything(), pods...)
		if err != nil {
			return err
		}
		fmt.Printf("%s\t%s\n", metric, query)
		return nil
	}
}
