// Package observetest is an API server that knows just enough to be read: lists
// of what a test puts in, and every way in which a read can fail.
package observetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// A Server is a fake API server. Set its fields before it is asked.
type Server struct {
	*httptest.Server

	Nodes       []corev1.Node
	Pods        []corev1.Pod
	ReplicaSets []metav1.PartialObjectMetadata
	Jobs        []metav1.PartialObjectMetadata

	// Neap's kinds; the API group is there only if Declared.
	Declared     bool
	MachineTypes []v1alpha1.MachineType
	Pools        []v1alpha1.ResourcePool
	Modules      []v1alpha1.Module

	// Kubelet is what nodes answer at /metrics/resource; "" is 404.
	Kubelet map[string]string

	// Forbidden resources are refused with 403, as "nodes" or "nodes/proxy".
	Forbidden map[string]bool
	// Status, if set, is what every request is answered with.
	Status int
	// Hang, if set, is waited for before every answer.
	Hang <-chan struct{}

	mu       sync.Mutex
	Requests []string // method and path with query, in order
}

// New starts a server with one API group, no objects and no TLS.
func New(t testing.TB) *Server {
	t.Helper()
	s := Unstarted(t)
	s.Start()
	return s
}

// Unstarted returns a server that is not listening yet, for a test to set up TLS.
func Unstarted(t testing.TB) *Server {
	s := &Server{Forbidden: map[string]bool{}, Kubelet: map[string]string{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Kubeconfig returns the text of a kubeconfig for the server.
func (s *Server) Kubeconfig() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: %q}}]
users: [{name: test, user: {token: secret}}]
`, s.URL)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.Hang != nil {
		select {
		case <-s.Hang:
		case <-r.Context().Done():
			return
		}
	}
	s.mu.Lock()
	s.Requests = append(s.Requests, r.Method+" "+r.URL.RequestURI())
	s.mu.Unlock()
	if s.Status != 0 {
		fail(w, s.Status, metav1.StatusReasonUnknown, http.StatusText(s.Status))
		return
	}
	if r.Method != http.MethodGet {
		fail(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "this server is only read")
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource, group := parts[len(parts)-1], ""
	if parts[0] == "apis" {
		group = parts[1]
	}
	if len(parts) == 7 && parts[2] == "nodes" && parts[4] == "proxy" {
		if s.forbid(w, "", "nodes/proxy", "get") {
			return
		}
		text, ok := s.Kubelet[parts[3]]
		if !ok {
			fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the kubelet does not answer")
			return
		}
		fmt.Fprint(w, text)
		return
	}
	if s.forbid(w, group, resource, "list") {
		return
	}
	meta := metav1.TypeMeta{APIVersion: "v1", Kind: "List"}
	switch {
	case group == "" && resource == "nodes":
		page(w, r, "v1", "NodeList", s.Nodes)
	case group == "" && resource == "pods":
		page(w, r, "v1", "PodList", s.Pods)
	case resource == "replicasets":
		page(w, r, "meta.k8s.io/v1", "PartialObjectMetadataList", s.ReplicaSets)
	case resource == "jobs":
		page(w, r, "meta.k8s.io/v1", "PartialObjectMetadataList", s.Jobs)
	case group == "neap.dev" && !s.Declared:
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	case group == "neap.dev" && resource == "v1alpha1":
		answer(w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: "neap.dev/v1alpha1"})
	case resource == "machinetypes":
		page(w, r, "neap.dev/v1alpha1", "MachineTypeList", s.MachineTypes)
	case resource == "resourcepools":
		page(w, r, "neap.dev/v1alpha1", "ResourcePoolList", s.Pools)
	case resource == "modules":
		page(w, r, "neap.dev/v1alpha1", "ModuleList", s.Modules)
	default:
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource "+meta.Kind)
	}
}

func (s *Server) forbid(w http.ResponseWriter, group, resource, verb string) bool {
	if !s.Forbidden[resource] {
		return false
	}
	fail(w, http.StatusForbidden, metav1.StatusReasonForbidden,
		fmt.Sprintf("%s is forbidden: User \"jane\" cannot %s resource %q in API group %q at the cluster scope", resource, verb, resource, group))
	return true
}

// page answers with the part of a list that limit and continue ask for.
func page[T any](w http.ResponseWriter, r *http.Request, version, kind string, items []T) {
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	to := len(items)
	if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 0 {
		to = min(to, from+limit)
	}
	list := struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
		Items           []T `json:"items"`
	}{TypeMeta: metav1.TypeMeta{APIVersion: version, Kind: kind}, Items: items[from:to]}
	if to < len(items) {
		list.Continue = strconv.Itoa(to)
	}
	answer(w, list)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

// Node returns a node of 8 cores and 32 GiB of which pods may use 7 and 28.
func Node(name, machineType string, born time.Time) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(born), Labels: map[string]string{}}}
	if machineType != "" {
		n.Labels[corev1.LabelInstanceTypeStable] = machineType
	}
	n.Status.Capacity = Resources("8", "32Gi")
	n.Status.Capacity[corev1.ResourcePods] = apiresource.MustParse("110")
	n.Status.Allocatable = Resources("7", "28Gi")
	n.Status.Allocatable[corev1.ResourcePods] = apiresource.MustParse("110")
	return n
}

// Pod returns a running pod of one container, bound to node at bound, controlled
// by the ReplicaSet of deployment.
func Pod(namespace, name, deployment, node string, bound time.Time, cpu, memory string) corev1.Pod {
	yes := true
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), CreationTimestamp: metav1.NewTime(bound),
		Labels:          map[string]string{"app": deployment},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: deployment + "-5d8f", UID: types.UID("rs-" + deployment), Controller: &yes}},
	}}
	p.Spec.NodeName = node
	p.Spec.Containers = []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{Requests: Resources(cpu, memory)}}}
	p.Status.Phase = corev1.PodRunning
	start := metav1.NewTime(bound)
	p.Status.StartTime = &start
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: start}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}}}}
	return p
}

// Finish makes p a pod whose container ended.
func Finish(p *corev1.Pod, at time.Time) {
	p.Status.Phase = corev1.PodSucceeded
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(at)}}
}

// ReplicaSet returns the metadata of the ReplicaSet that [Pod] names.
func ReplicaSet(namespace, deployment string) metav1.PartialObjectMetadata {
	yes := true
	return metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: deployment + "-5d8f", UID: types.UID("rs-" + deployment),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: deployment, UID: types.UID("d-" + deployment), Controller: &yes}}},
	}
}

// Resources returns a resource list of CPU and memory.
func Resources(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu), corev1.ResourceMemory: apiresource.MustParse(memory)}
}
