package jobs

import (
	"errors"
	"strings"
	"testing"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// TestAnAgentOffersTheGPUsOfItsOwnNode: what a node offers to claims the agent there
// says, though all agents have the same rights.
func TestAnAgentOffersTheGPUsOfItsOwnNode(t *testing.T) {
	c := clustertest.Start(t)
	admin(t, c)
	offer := func(from, node, driver string) error {
		cfg, err := c.RESTConfig()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:neap-system:neap-agent", Groups: []string{"system:masters"}}
		if from != "" {
			cfg.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {from}}
		}
		slice := &resourceapi.ResourceSlice{ObjectMeta: metav1.ObjectMeta{GenerateName: "slice-"}}
		slice.Spec = resourceapi.ResourceSliceSpec{
			Driver: driver, NodeName: &node, Pool: resourceapi.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1},
			Devices: []resourceapi.Device{convert.PublishedGPU(v1alpha1.GPUDevice{UUID: "GPU-a", Model: "T4", MemoryMiB: 16384})},
		}
		slices := kubernetes.NewForConfigOrDie(cfg).ResourceV1().ResourceSlices()
		if slice, err = slices.Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
			return err
		}
		return slices.Delete(t.Context(), slice.Name, metav1.DeleteOptions{})
	}
	clustertest.Eventually(t, "the policy to hold", func() error {
		if offer("other", "mine", v1alpha1.GPUDriver) == nil {
			return errors.New("any agent may")
		}
		return nil
	})
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"its own":             {offer("mine", "mine", v1alpha1.GPUDriver), ""},
		"another's":           {offer("other", "mine", v1alpha1.GPUDriver), "of the node that it runs on"},
		"of another driver":   {offer("mine", "mine", "gpu.nvidia.com"), "no others"},
		"an agent of no node": {offer("", "mine", v1alpha1.GPUDriver), ""}, // as the fleet of a laptop
	} {
		if tc.want == "" && tc.err != nil || tc.want != "" && (tc.err == nil || !strings.Contains(tc.err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, tc.err, tc.want)
		}
	}
}
