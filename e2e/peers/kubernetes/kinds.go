package main

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is one of the six; `body` is what an object has besides its name.
type kind struct {
	schema.GroupVersionResource
	name string
	body map[string]any
}

type object = map[string]any

func pod() object {
	return object{"containers": []any{object{"name": "main", "image": "none", "resources": object{"requests": object{"cpu": "1m"}}}}}
}

var kinds = []kind{
	{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "ConfigMap", object{"data": object{"a": "1"}}},
	{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, "Secret", object{"stringData": object{"a": "1"}}},
	{schema.GroupVersionResource{Version: "v1", Resource: "services"}, "Service",
		object{"spec": object{"selector": object{"app": "drill"}, "ports": []any{object{"port": int64(80)}}}}},
	{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "Pod", object{"spec": pod()}},
	// The controllers make a ReplicaSet of each.
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "Deployment", object{"spec": object{
		"replicas": int64(0), "selector": object{"matchLabels": object{"app": "drill"}},
		"template": object{"metadata": object{"labels": object{"app": "drill"}}, "spec": pod()}}}},
	{schema.GroupVersionResource{Group: "platform.dev", Version: "v1", Resource: "kvclusters"}, "KVCluster",
		object{"spec": object{"replicas": int64(3)}}},
}

func (k kind) make(name string) *unstructured.Unstructured {
	made := &unstructured.Unstructured{Object: object{
		"apiVersion": k.GroupVersion().String(), "kind": k.name,
		"metadata": object{"name": name, "namespace": "default", "labels": object{"drill": "yes"}}}}
	for key, value := range k.body {
		made.Object[key] = value
	}
	return made.DeepCopy()
}
