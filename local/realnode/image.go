package realnode

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// An Image is a container image with one program and what it is linked with.
type Image struct {
	Name    string   // such as "localhost/neap-agent:local"; required
	Program string   // path of the program; required
	Args    []string // its first arguments; a pod's args follow them
}

// Entry is the path of the program inside the image.
func (i Image) Entry() string { return "/" + filepath.Base(i.Program) }

// WriteTo writes the image as a tar archive in the layout of OCI, which
// `ctr images import` reads. Equal programs make equal bytes.
func (i Image) write(w io.Writer, scratch string) error {
	fail := func(err error) error { return fmt.Errorf("make the image %s: %w", i.Name, err) }
	files, err := linked(i.Program)
	if err != nil {
		return fail(err)
	}
	layer, err := os.CreateTemp(scratch, "layer-*")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	sum := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, sum), i.Entry(), files); err != nil {
		return fail(err)
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return fail(err)
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}

	out := tar.NewWriter(w)
	put := func(name string, size int64, content io.Reader) error {
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := io.Copy(out, content)
		return err
	}
	blob := func(kind string, content []byte) (descriptor, error) {
		d := descriptor{MediaType: kind, Digest: digest(content), Size: int64(len(content))}
		return d, put("blobs/sha256/"+hexOf(content), d.Size, bytes.NewReader(content))
	}
	layerDigest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if err := put("blobs/sha256/"+layerDigest[len("sha256:"):], size, layer); err != nil {
		return fail(err)
	}
	config, err := blob("application/vnd.oci.image.config.v1+json", encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": append([]string{i.Entry()}, i.Args...), "Env": []string{"PATH=/"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerDigest}},
	}))
	if err != nil {
		return fail(err)
	}
	manifest, err := blob(manifestType, encode(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": config,
		"layers": []descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: layerDigest, Size: size}},
	}))
	if err != nil {
		return fail(err)
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.Name}
	index := encode(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	layout := encode(map[string]string{"imageLayoutVersion": "1.0.0"})
	if err := errors.Join(
		put("index.json", int64(len(index)), bytes.NewReader(index)),
		put("oci-layout", int64(len(layout)), bytes.NewReader(layout)),
		out.Close(),
	); err != nil {
		return fail(err)
	}
	return nil
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func hexOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func digest(b []byte) string { return "sha256:" + hexOf(b) }

// encode never fails: it is called with maps of strings and numbers only.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// writeLayer writes the file system of an image: the program at entry, the libraries
// at their own paths, and the empty folders that containers are given something in.
func writeLayer(w io.Writer, entry string, files []string) error {
	out := tar.NewWriter(w)
	made := map[string]bool{}
	var folder func(path string, mode int64) error
	folder = func(path string, mode int64) error {
		if path == "/" || made[path] {
			return nil
		}
		made[path] = true
		if err := folder(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path[1:] + "/", Mode: mode, Format: tar.FormatUSTAR})
	}
	if err := errors.Join(folder("/etc", 0o755), folder("/tmp", 0o1777)); err != nil {
		return err
	}
	for n, file := range files {
		name := file
		if n == 0 {
			name = entry
		}
		if err := folder(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := writeFile(out, name, file); err != nil {
			return err
		}
	}
	return out.Close()
}

func writeFile(out *tar.Writer, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: name[1:], Mode: 0o755, Size: st.Size(), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}

// libraries is where a dynamic program's libraries are looked for.
var libraries = []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

var triplet = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]

// linked returns the program, and, if it is a dynamic one, its loader and the
// libraries that it and they need.
func linked(program string) ([]string, error) {
	files := []string{program}
	for n := 0; n < len(files); n++ {
		loader, needs, err := needed(files[n])
		if err != nil {
			return nil, err
		}
		if loader != "" && n == 0 {
			files = append(files, loader)
		}
		for _, library := range needs {
			if slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == library }) {
				continue
			}
			path, err := find(library)
			if err != nil {
				return nil, fmt.Errorf("%s needs %s: %w", files[n], library, err)
			}
			files = append(files, path)
		}
	}
	return files, nil
}

func needed(file string) (loader string, libraries []string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", nil, fmt.Errorf("read the program %s: %w", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return "", nil, fmt.Errorf("read the program %s: %w", file, err)
			}
			loader = string(bytes.TrimRight(b, "\x00"))
		}
	}
	libraries, err = f.ImportedLibraries()
	if err != nil {
		return "", nil, fmt.Errorf("read the program %s: %w", file, err)
	}
	return loader, libraries, nil
}

func find(library string) (string, error) {
	for _, dir := range libraries {
		path := filepath.Join(dir, library)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("it is in none of %v: %w", libraries, fs.ErrNotExist)
}
