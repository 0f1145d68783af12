package realnode

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/neap-dev/neap/local/controlplane"
)

func TestPodsGetANetworkThatNothingElseHas(t *testing.T) {
	cases := map[string]struct {
		taken    []string
		wantPods string // empty: none
	}{
		"nobody has anything":             {nil, "10.213.0.0/24"},
		"a route leads to the first":      {[]string{"192.0.2.0/24", "10.213.0.0/24"}, "10.213.1.0/24"},
		"a route leads to a part of one":  {[]string{"10.213.0.7/32", "10.213.1.128/25"}, "10.213.2.0/24"},
		"a company has all of 10.0.0.0/8": {[]string{"10.0.0.0/8"}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, p := range tc.taken {
				taken = append(taken, netip.MustParsePrefix(p))
			}
			n, ok := choose(taken)
			if !ok && tc.wantPods == "" {
				return
			}
			if n.pods.String() != tc.wantPods || !n.pods.Contains(n.node) {
				t.Errorf("pods get %v and the node %v, want pods in %q", n.pods, n.node, tc.wantPods)
			}
		})
	}
}

func TestAnImageHasItsProgramAndIsTheSameTwice(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	image := Image{Name: "localhost/try:local", Program: self, Args: []string{"serve"}}
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := image.write(b, t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("equal programs made different images")
	}

	files := map[string][]byte{}
	for r := tar.NewReader(&first); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if sum, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && sum != hexOf(files[h.Name]) {
			t.Errorf("%s is not what it is called", h.Name)
		}
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("the index is %s: %v", files["index.json"], err)
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != image.Name {
		t.Errorf("the image is called %q, want %q", got, image.Name)
	}
	var manifest struct{ Layers []descriptor }
	if err := json.Unmarshal(blob(files, index.Manifests[0].Digest), &manifest); err != nil || len(manifest.Layers) != 1 {
		t.Fatalf("the manifest: %v", err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(blob(files, manifest.Layers[0].Digest))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if want := filepath.Base(self); !slices.Contains(names, want) {
		t.Errorf("the image has %q and not %q", names, want)
	}
}

func blob(files map[string][]byte, digest string) []byte {
	return files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
}

func TestWhatIsMissingIsSaidBeforeAnythingStarts(t *testing.T) {
	if os.Geteuid() != 0 {
		if err := Check(t.TempDir()); err == nil || !strings.Contains(err.Error(), "root") {
			t.Errorf("without root: %v", err)
		}
		return
	}
	err := Check(t.TempDir())
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "make node") {
		t.Errorf("without a kubelet: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	err = Check(t.TempDir())
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "no containerd, no ctr, no runc") {
		t.Errorf("without containerd: %v", err)
	}
	if _, err := Start(t.Context(), Options{Cluster: new(controlplane.Cluster), BinDir: t.TempDir()}); !errors.Is(err, ErrMissing) {
		t.Errorf("started without containerd: %v", err)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add("36 35 98:0 / /mnt\\040x rw shared:1 - ext4 /dev/sda rw\n30 29 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n")
	f.Add("36 35 98:0 / /a\\04 rw - \n - - -\n")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := parseMounts(strings.NewReader(text))
		if err != nil && len(text) < 1<<19 {
			t.Errorf("%q: %v", text, err)
		}
		if lines := strings.Count(text, "\n") + 1; len(mounts) > lines {
			t.Errorf("%d mounts of %d lines", len(mounts), lines)
		}
		for _, m := range mounts {
			if m.kind == "" || m.path == "" {
				t.Errorf("%q has a mount without a name: %+v", text, m)
			}
		}
	})
}

func TestAMountsSpacesAreRead(t *testing.T) {
	got, err := parseMounts(strings.NewReader("36 35 98:0 / /a\\040b\\134c rw shared:1 - ext4 /dev/sda rw\n"))
	if err != nil || len(got) != 1 || got[0] != (mount{`/a b\c`, "ext4"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}
