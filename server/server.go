package server

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/ui"
)

// Options tune [New]. Store is required; everything else may be left out.
type Options struct {
	// Store holds the closed hours. Required.
	Store Store
	// Metrics draw the day's load and ready replicas. Without them those curves
	// are missing, and the page says so.
	Metrics metrics.Source
	// Live is the running cluster; nil shows closed hours only.
	Live Live
	// Now is the clock of hours and windows where there is no Live; nil means
	// time.Now.
	Now func() time.Time
	// Title names the cluster in the page's head; empty means "Neap".
	Title string
	// Simulated says that the stored hours come from simulated machines. The
	// page then says so everywhere. A Live that is simulated says it as well.
	Simulated bool
	// Zone is the time zone that the page shows hours in; nil means UTC.
	Zone *time.Location
	// Hosts lists the host names, without port, that requests may name; nil
	// means those of the loopback interface. "*" allows all: only behind a proxy
	// that checks them.
	Hosts []string
	// Assets is the built page; nil means the one embedded in the binary.
	Assets fs.FS
	// Tick is how often the event stream looks for news; 0 means a second.
	Tick time.Duration
	// MaxStreams is how many pages may listen at once; 0 means 64.
	MaxStreams int
}

// Validate names the first field that cannot be used.
func (o Options) Validate() error {
	if o.Store == nil {
		return errors.New("server: Options.Store is missing")
	}
	return nil
}

// A Server is the dashboard's http.Handler. It is safe for concurrent use.
type Server struct {
	opts    Options
	mux     *http.ServeMux
	assets  fs.FS
	files   sync.Map // asset path → *asset
	stop    chan struct{}
	once    sync.Once
	streams chan struct{} // one token for each open stream
	news    news

	labelled struct {
		mu   sync.Mutex
		to   time.Time
		keys []string
	}
}

var _ http.Handler = (*Server)(nil)

// New returns the dashboard. It panics if opts do not validate, for that is a
// mistake in the wiring.
func New(opts Options) *Server {
	if err := opts.Validate(); err != nil {
		panic(err)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Title == "" {
		opts.Title = "Neap"
	}
	if opts.Zone == nil || opts.Zone == time.Local { // a browser knows no zone of that name
		opts.Zone = time.UTC
	}
	if opts.Tick <= 0 {
		opts.Tick = time.Second
	}
	if opts.MaxStreams <= 0 {
		opts.MaxStreams = 64
	}
	if opts.Assets == nil {
		opts.Assets = ui.Assets()
	}
	s := &Server{opts: opts, mux: http.NewServeMux(), assets: opts.Assets, stop: make(chan struct{}), streams: make(chan struct{}, opts.MaxStreams)}
	for route, get := range map[string]func(*http.Request) (any, error){
		"status":    s.status,
		"bill":      s.bill,
		"bill/diff": s.diff,
		"flow":      s.flow,
		"day":       s.day,
		"machines":  s.machines,
		"idle":      s.idle,
		"decisions": s.decisions,

		"gpus":           s.gpus,
		"elastic":        s.elastic,
		"elastic/day":    s.elasticDay,
		"colocation":     s.colocation,
		"colocation/day": s.colocationDay,
	} {
		s.mux.HandleFunc("GET /api/v1/"+route, func(w http.ResponseWriter, r *http.Request) {
			v, err := get(r)
			if err != nil {
				writeError(w, err)
				return
			}
			writeJSON(w, r, v)
		})
	}
	s.mux.HandleFunc("GET /api/v1/events", s.events)
	s.mux.HandleFunc("GET /api/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, refuse(http.StatusNotFound, "There is nothing at %s; docs/format/http.md lists what there is.", r.URL.Path))
	})
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	s.mux.HandleFunc("GET /", s.page)
	return s
}

// Close ends the open event streams, so that an http.Server can shut down. It
// may be called more than once.
func (s *Server) Close() { s.once.Do(func() { close(s.stop) }) }

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// Styles that scripts set on elements are allowed by style-src 'self'; what a
	// page or a string of HTML brings along is not.
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	if !s.allowed(r.Host) {
		writeError(w, refuse(http.StatusMisdirectedRequest, "This server does not answer to the host name %q; open it by the address it printed.", r.Host))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		writeError(w, refuse(http.StatusMethodNotAllowed, "The dashboard only reads; %s is not possible.", r.Method))
		return
	}
	s.mux.ServeHTTP(w, r)
}

// allowed says whether a request may name host. A page of another site that
// makes its own name point here is kept out by this check.
func (s *Server) allowed(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if s.opts.Hosts == nil {
		ip := net.ParseIP(name)
		return name == "localhost" || (ip != nil && ip.IsLoopback())
	}
	return slices.Contains(s.opts.Hosts, "*") || slices.ContainsFunc(s.opts.Hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

// A refusal is an error with a status and a sentence for the reader.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// sentence is an error's text with a capital at its start.
func sentence(err error) string {
	text := strings.TrimSuffix(err.Error(), ".")
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func writeError(w http.ResponseWriter, err error) {
	status, text := http.StatusInternalServerError, sentence(err)+"."
	if r := (*refusal)(nil); errors.As(err, &r) {
		status, text = r.status, r.text
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text}) // the reader has gone
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}

func writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeError(w, fmt.Errorf("write %s: %w", r.URL.Path, err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept-Encoding")
	sum := sha256.Sum256(body)
	tag := `W/"` + hex.EncodeToString(sum[:12]) + `"`
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if len(body) > 1024 && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		zw, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is known
		_, _ = zw.Write(body)                           // the reader has gone
		_ = zw.Close()
		return
	}
	_, _ = w.Write(body) // the reader has gone
}

// An asset is one file of the page, ready to be sent.
type asset struct {
	plain, zipped []byte
	tag, ctype    string
}

// page sends a file of the built page, or the page itself.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	if name == "" || name == "." {
		name = "index.html"
	}
	a, err := s.asset(name)
	if err != nil {
		if name == "index.html" {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "<!doctype html><html lang=en><title>Neap</title><h1>The page is not built into this binary</h1>"+
				"<p>Run <code>make ui</code> and build again. The figures are at <a href=/api/v1/bill>/api/v1/bill</a> meanwhile.</p>")
			return
		}
		writeError(w, refuse(http.StatusNotFound, "There is nothing at %s.", r.URL.Path))
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.ctype)
	h.Set("Vary", "Accept-Encoding")
	if strings.HasPrefix(name, "assets/") { // the name holds a hash of the content
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	h.Set("ETag", a.tag)
	if a.zipped != nil && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		h.Set("ETag", strings.TrimSuffix(a.tag, `"`)+`-gz"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.zipped))
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.plain))
}

func (s *Server) asset(name string) (*asset, error) {
	if a, ok := s.files.Load(name); ok {
		return a.(*asset), nil
	}
	body, err := fs.ReadFile(s.assets, name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	a := &asset{plain: body, tag: `"` + hex.EncodeToString(sum[:12]) + `"`, ctype: mime.TypeByExtension(path.Ext(name))}
	switch path.Ext(name) { // what a machine's own table must not decide
	case ".js":
		a.ctype = "text/javascript; charset=utf-8"
	case ".css":
		a.ctype = "text/css; charset=utf-8"
	case ".svg":
		a.ctype = "image/svg+xml"
	}
	if len(body) > 1024 {
		var buf bytes.Buffer
		zw, _ := gzip.NewWriterLevel(&buf, gzip.BestCompression) // the level is known
		_, _ = zw.Write(body)                                    // memory does not fail
		_ = zw.Close()
		a.zipped = buf.Bytes()
	}
	s.files.Store(name, a)
	return a, nil
}
