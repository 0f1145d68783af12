package local_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/store"
)

// asUp in the environment makes the test binary a `neap up` in that directory,
// so that tests can kill one.
const asUp = "NEAP_TEST_UP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asUp); dir != "" {
		os.Exit(up(dir))
	}
	os.Exit(m.Run())
}

func up(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := scenario.Load("small", scenario.Options{})
	if err == nil {
		_, err = local.Up(ctx, local.Options{Scenario: s, Dir: dir, Speed: 240, Listen: "127.0.0.1:0", Out: os.Stderr, Ready: func(a local.Addresses) {
			_ = json.NewEncoder(os.Stdout).Encode(a) // the test sees that nothing comes
		}})
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A child is a `neap up` in another process.
type child struct {
	t    *testing.T
	cmd  *exec.Cmd
	at   local.Addresses
	down bool
}

func start(t *testing.T, dir string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), asUp+"="+dir)
	log, err := os.Create(filepath.Join(t.TempDir(), "up.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.cmd.Stderr = log
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !c.down {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("what neap up said:\n%s", b)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &c.at) != nil {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("neap up did not come up: %v %s\n%s", err, line, b)
	}
	return c
}

// wait waits for the end of the child and of everything it had started.
func (c *child) wait(below []int) error {
	c.t.Helper()
	err := c.cmd.Wait()
	c.down = true
	clustertest.Eventually(c.t, "the end of what neap up had started", func() error {
		for _, pid := range below {
			if alive(pid) {
				return fmt.Errorf("process %d is there", pid)
			}
		}
		return nil
	})
	return err
}

// alive reports whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && !strings.HasPrefix(rest, "Z")
}

// below lists the processes that a process and its children started.
func below(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue // it ended
		}
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		_, rest, ok := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if err != nil || !ok || len(f) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(f[1]); err == nil {
			children[parent] = append(children[parent], id)
		}
	}
	var all []int
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		all = append(all, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return all
}

func client(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func dayAt(t *testing.T, dir string) time.Time {
	t.Helper()
	_, day, _, err := clock.Read(filepath.Join(dir, "clock.json"))
	if err != nil {
		t.Fatal(err)
	}
	return day
}

func (c *child) page(path string) error {
	r, err := http.Get(c.at.Dashboard + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, r.Status)
	}
	return nil
}

func TestAKilledDayGoesOnAndCtrlCLeavesNothing(t *testing.T) {
	clustertest.Need(t)
	t.Parallel() // it mostly waits, and holds nothing to a figure that a busy machine moves
	dir := t.TempDir()

	// 1. A day runs; the API server acknowledges a write; everything is killed.
	first := start(t, dir)
	clustertest.Eventually(t, "half an hour of the day", func() error {
		if begin, now := time.Date(2026, 9, 16, 8, 0, 0, 0, time.UTC), dayAt(t, dir); now.Sub(begin) < 40*time.Minute {
			return fmt.Errorf("it is %v", now)
		}
		return nil
	})
	if err := errors.Join(first.page("/"), first.page("/metrics"), first.page("/api/v1/status"), first.page("/api/v1/machines")); err != nil {
		t.Error(err)
	}
	k := client(t, first.at.Kubeconfig)
	_, err := k.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "acknowledged"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	started := below(t, first.cmd.Process.Pid)
	if len(started) < 2 {
		t.Errorf("neap up started %d processes, want the control plane and the scheduler", len(started))
	}
	stood := dayAt(t, dir)
	if err := first.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := first.wait(started); err == nil {
		t.Error("a killed neap up ended well")
	}

	// 2. The second start finds all of it, and the day goes on.
	second := start(t, dir)
	k = client(t, second.at.Kubeconfig)
	if _, err := k.CoreV1().ConfigMaps("default").Get(t.Context(), "acknowledged", metav1.GetOptions{}); err != nil {
		t.Errorf("what was acknowledged is lost: %v", err)
	}
	if now := dayAt(t, dir); now.Before(stood) {
		t.Errorf("the day went back from %v to %v", stood, now)
	}
	clustertest.Eventually(t, "two closed hours", func() error {
		s, err := store.OpenRead(local.StoreDir(dir))
		if err != nil {
			return err
		}
		defer s.Close()
		hours, err := s.Hours(t.Context(), time.Time{}, time.Time{})
		if err == nil && len(hours) < 2 {
			err = fmt.Errorf("there are %d, and it is %v", len(hours), dayAt(t, dir))
		}
		return err
	})
	s, err := scenario.Load("school-day", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := local.Up(t.Context(), local.Options{Scenario: s, Dir: dir}); err == nil || !strings.Contains(err.Error(), "another neap up is running") {
		t.Errorf("a second neap up beside the first: %v", err)
	}

	// 3. Ctrl-C ends it in order.
	started = below(t, second.cmd.Process.Pid)
	if err := second.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := second.wait(started); err != nil {
		t.Errorf("after Ctrl-C neap up ended with %v", err)
	}
	if err := second.page("/"); err == nil {
		t.Error("the page still answers")
	}
	if _, err := local.Up(t.Context(), local.Options{Scenario: s, Dir: dir}); err == nil || !strings.Contains(err.Error(), "--fresh") {
		t.Errorf("another scenario in the same directory: %v", err)
	}
	facts := readFacts(t, dir)
	for _, f := range facts {
		adds(t, f)
	}
}

func readFacts(t *testing.T, dir string) []bill.Facts {
	t.Helper()
	s, err := store.OpenRead(local.StoreDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	facts, err := s.Facts(t.Context(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// adds fails the test unless an hour adds up to the last unit.
func adds(t *testing.T, f bill.Facts) {
	t.Helper()
	r, err := bill.Summarise([]bill.Facts{f}, bill.ByModule, nil)
	if err != nil {
		t.Fatal(err)
	}
	closes(t, r)
}

func closes(t *testing.T, r bill.Report) {
	t.Helper()
	sum := r.AllocatedNano
	for _, a := range r.IdleNano {
		sum += a
	}
	if sum != r.BillNano || r.UnexplainedNano != 0 || r.BillNano == 0 {
		t.Errorf("from %v: allocated and idle are %v of %v, unexplained %v", r.From, sum, r.BillNano, r.UnexplainedNano)
	}
}

// The replay plays the same scenario with the same physics and the same bill, and
// no API server. What the two say of the same hours must agree, or one of them
// does not tell the truth.
func TestTheLiveBillAgreesWithTheReplay(t *testing.T) {
	clustertest.Need(t)
	s, err := scenario.Load("small", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const until = 2*time.Hour + 20*time.Minute
	dir := t.TempDir()
	live, err := local.Up(t.Context(), local.Options{Scenario: s, Dir: dir, Speed: 240, Until: until, Listen: "127.0.0.1:0", Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	closes(t, live.Bill)
	if got := live.To.Sub(live.From); got != until {
		t.Errorf("the report is of %v, want %v", got, until)
	}
	if n := len(live.Hours); n != 3 {
		t.Errorf("the report has %d hours, want two and a part", n)
	}
	if live.Decisions < 3 {
		t.Errorf("the ledger has %d decisions, want the beginning, the scaling at half past five and the machine at six", live.Decisions)
	}
	same, err := replay.Run(t.Context(), s, replay.Options{Until: until})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "the bill", float64(live.Bill.BillNano), float64(same.Bill.BillNano), 2)
	near(t, "what was allocated", float64(live.Bill.AllocatedNano), float64(same.Bill.AllocatedNano), 5)
	for i, h := range same.Hours {
		if i < len(live.Hours) {
			near(t, "the hour from "+h.From.String(), float64(live.Hours[i].BillNano), float64(h.BillNano), 2)
		}
	}
	for _, l := range same.Bill.Lines {
		if l.CostNano < same.Bill.BillNano/20 {
			continue // a few jobs: chance decides
		}
		i := slices.IndexFunc(live.Bill.Lines, func(m bill.Line) bool { return m.Key == l.Key })
		if i < 0 {
			t.Errorf("%s is not on the live bill", l.Key)
			continue
		}
		near(t, "the cost of "+l.Key, float64(live.Bill.Lines[i].CostNano), float64(l.CostNano), 5)
		near(t, "the load of "+l.Key, float64(live.Bill.Lines[i].Requests), float64(l.Requests), 2)
	}

	// The day has come so far already: asking again gives the report at once.
	again, err := local.Up(t.Context(), local.Options{Scenario: s, Dir: dir, Speed: 240, Until: until, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if again.Bill.BillNano < live.Bill.BillNano {
		t.Errorf("asked again, the bill is %v, less than %v", again.Bill.BillNano, live.Bill.BillNano)
	}
}

// near fails the test if two figures differ by more than some percent.
func near(t *testing.T, what string, got, want, percent float64) {
	t.Helper()
	if d := math.Abs(got-want) / want * 100; !(d <= percent) {
		t.Errorf("%s is %v live and %v replayed: %.2f %% apart, want at most %v %%", what, got, want, d, percent)
	} else {
		t.Logf("%s: %.3f %% apart", what, d)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	s, err := scenario.Load("small", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		o    local.Options
		want string
	}{
		"no scenario":                         {local.Options{Dir: "x"}, "Scenario"},
		"no directory":                        {local.Options{Scenario: s}, "Dir"},
		"a speed below one":                   {local.Options{Scenario: s, Dir: "x", Speed: 0.5}, "Speed"},
		"a speed beyond the most":             {local.Options{Scenario: s, Dir: "x", Speed: 601}, "Speed"},
		"a speed that is no number":           {local.Options{Scenario: s, Dir: "x", Speed: math.NaN()}, "Speed"},
		"an end before the beginning":         {local.Options{Scenario: s, Dir: "x", Until: -time.Hour}, "Until"},
		"an address for everybody":            {local.Options{Scenario: s, Dir: "x", Listen: "0.0.0.0:80"}, "loopback"},
		"no address":                          {local.Options{Scenario: s, Dir: "x", Listen: "8088"}, "Listen"},
		"a Prometheus and a day that hurries": {local.Options{Scenario: s, Dir: "x", Prometheus: "http://localhost:9090", Speed: 60}, "Prometheus"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := local.Up(t.Context(), tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error about %s", err, tc.want)
			}
		})
	}
}
