package convert

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/core/workload"
)

func podOf(t *testing.T, doc string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhatABatchPodAsksFor(t *testing.T) {
	cases := map[string]struct {
		spec string
		want colocate.Room
	}{
		"nothing":                      {`{containers: [{name: a}]}`, colocate.Room{}},
		"CPU and memory are no batch":  {`{containers: [{name: a, resources: {requests: {cpu: 2, memory: 1Gi}}}]}`, colocate.Room{}},
		"one container":                {`{containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: 1500, neap.dev/batch-memory: 1Gi}}}]}`, colocate.Room{CPUMilli: 1500, MemoryMiB: 1024}},
		"memory is rounded up":         {`{containers: [{name: a, resources: {requests: {neap.dev/batch-memory: 1048577}}}]}`, colocate.Room{MemoryMiB: 2}},
		"containers add up":            {`{containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: 500}}}, {name: b, resources: {requests: {neap.dev/batch-cpu: 700}}}]}`, colocate.Room{CPUMilli: 1200}},
		"both names add up":            {`{containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: 500}}}, {name: b, resources: {requests: {kubernetes.io/batch-cpu: 700}}}]}`, colocate.Room{CPUMilli: 1200}},
		"a large init container":       {`{initContainers: [{name: i, resources: {requests: {neap.dev/batch-cpu: 4000}}}], containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: 500}}}]}`, colocate.Room{CPUMilli: 4000}},
		"a sidecar beside a container": {`{initContainers: [{name: i, restartPolicy: Always, resources: {requests: {neap.dev/batch-cpu: 100}}}], containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: 500}}}]}`, colocate.Room{CPUMilli: 600}},
		"a negative amount":            {`{containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: -5}}}]}`, colocate.Room{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := BatchRequest(podOf(t, "{spec: "+tc.spec+"}")); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestWhatUsersSayOfABatchPod(t *testing.T) {
	cases := map[string]struct {
		annotations string
		want        BatchWord
		wantErr     string
	}{
		"nothing": {`{}`, BatchWord{}, ""},
		"all": {`{neap.dev/batch-run-time: 45m, neap.dev/batch-freeze: 5m, neap.dev/batch-checkpointed-at: "2026-03-02T18:00:00+08:00"}`,
			BatchWord{45 * time.Minute, 5 * time.Minute, time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)}, ""},
		"a negative run time":     {`{neap.dev/batch-run-time: -1h, neap.dev/batch-freeze: 5m}`, BatchWord{Freeze: 5 * time.Minute}, "neap.dev/batch-run-time is \"-1h\""},
		"a run time of a century": {`{neap.dev/batch-run-time: 876000h}`, BatchWord{}, "up to 720h"},
		"a checkpoint of nonsense": {`{neap.dev/batch-checkpointed-at: yesterday}`, BatchWord{},
			"neap.dev/batch-checkpointed-at is \"yesterday\": give a time in RFC 3339"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := BatchSays(podOf(t, "{metadata: {annotations: "+tc.annotations+"}}"))
			if got.Saved = got.Saved.UTC(); got.Saved.IsZero() {
				got.Saved = time.Time{}
			}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got the error %v, want %q", err, tc.wantErr)
			}
		})
	}
}

func TestTheTaskThatABatchPodIs(t *testing.T) {
	const pod = `{metadata: {name: etl-x, namespace: data, creationTimestamp: "2026-03-02T10:00:00Z", annotations: {%s}}, spec: {nodeName: %s, containers: [{name: a, resources: {requests: {neap.dev/batch-cpu: 1000}}}]}, status: %s}`
	owner := workload.Key{Namespace: "data", Kind: "CronJob", Name: "etl"}
	learnt := LearntRunTimes(
		&v1alpha1.ColocationPolicy{Status: v1alpha1.ColocationPolicyStatus{RunTimes: []v1alpha1.LearntRunTime{
			{Owner: "data/CronJob/etl", P80: metav1.Duration{Duration: 20 * time.Minute}, Pods: 3}, {Owner: "nonsense", P80: metav1.Duration{Duration: 1}}}}},
		&v1alpha1.ColocationPolicy{Status: v1alpha1.ColocationPolicyStatus{RunTimes: []v1alpha1.LearntRunTime{{Owner: "data/CronJob/etl", P80: metav1.Duration{Duration: 30 * time.Minute}, Pods: 3}}}})
	bound := `{conditions: [{type: PodScheduled, status: "True", lastTransitionTime: "2026-03-02T11:30:00Z"}]}`
	cases := map[string]struct {
		annotations, node, status string
		learnt                    map[workload.Key]time.Duration
		wantRun                   time.Duration
		wantStarted               string
	}{
		"it says how long it runs":        {"neap.dev/batch-run-time: 5m", "n", bound, learnt, 5 * time.Minute, "11:30"},
		"its owner's pods were seen":      {"", "n", bound, learnt, 30 * time.Minute, "11:30"},
		"nothing is known":                {"", "n", bound, nil, time.Hour, "11:30"},
		"it waits":                        {"", `""`, "{}", nil, time.Hour, ""},
		"it is assumed, and waited long":  {"", "n", `{conditions: [{type: PodScheduled, status: "False", lastTransitionTime: "2026-03-02T10:00:01Z"}]}`, nil, time.Hour, ""},
		"only the kubelet said something": {"", "n", `{startTime: "2026-03-02T11:31:00Z"}`, nil, time.Hour, "11:31"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := BatchTask(podOf(t, fmt.Sprintf(pod, tc.annotations, tc.node, tc.status)), owner, tc.learnt, time.Hour)
			started := ""
			if !got.Started.IsZero() {
				started = got.Started.UTC().Format("15:04")
			}
			if got.Name != "data/etl-x" || got.Need.CPUMilli != 1000 || got.RunTime != tc.wantRun || started != tc.wantStarted {
				t.Errorf("got %+v, want to run %v from %q", got, tc.wantRun, tc.wantStarted)
			}
		})
	}
}

func TestThePeakOfAPodIsThatOfItsOwner(t *testing.T) {
	now := time.Date(2026, 3, 2, 18, 0, 0, 0, time.UTC)
	status := func(owner string, at time.Time, hours ...int64) *v1alpha1.ColocationPolicy {
		l := v1alpha1.LearntPeak{Owner: owner, HourlyMilli: hours, MeasuredAt: metav1.NewTime(at)}
		return &v1alpha1.ColocationPolicy{Status: v1alpha1.ColocationPolicyStatus{OnlinePeaks: []v1alpha1.LearntPeak{l}}}
	}
	all := func(v, first int64) []int64 { return append([]int64{first}, slices.Repeat([]int64{v}, 23)...) }
	for name, tc := range map[string]struct {
		policies       []*v1alpha1.ColocationPolicy
		first, another int64
	}{
		"nothing is learnt":             {nil, 2000, 2000},
		"less than it asks for":         {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now, all(300, 500)...)}, 500, 300},
		"hours that nobody measured":    {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now, all(-1, 500)...)}, 500, 2000},
		"less known than what it uses":  {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now, all(-1, 3000)...)}, 3000, 3000},
		"two policies":                  {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now.Add(-30*24*time.Hour), all(-1, 500)...), status("shop/StatefulSet/db", now, all(300, 100)...)}, 500, 300},
		"nobody has measured it lately": {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now.Add(-PeakLasts-1), all(300, 500)...)}, 2000, 2000},
		"by a wrong clock":              {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now.Add(PeakLasts+time.Second), all(300, 500)...)}, 2000, 2000},
		"nonsense":                      {[]*v1alpha1.ColocationPolicy{status("shop/StatefulSet/db", now, 1, 2), status("db", now, all(1, 1)...)}, 2000, 2000},
	} {
		pod := podOf(t, `{metadata: {name: db-0, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: u, controller: true}]}, spec: {containers: [{name: a, resources: {requests: {cpu: 2}}}]}}`)
		got := PodPeak(pod, LearntPeaks(tc.policies...), now)
		if got[0] != tc.first || got[1] != tc.another || got[23] != tc.another {
			t.Errorf("%s: %v, want %d and then %d", name, got, tc.first, tc.another)
		}
	}
}

func capacityOf(steps int) BatchCapacity {
	at := time.Date(2026, 3, 2, 18, 2, 0, 0, time.UTC)
	o := colocate.Offer{At: at, Why: "one sentence", Binds: colocate.BoundOnline}
	o.Curve = colocate.Curve{Start: at.Truncate(15 * time.Minute), Step: 15 * time.Minute}
	o.Online = o.Curve
	for i := range steps {
		o.Curve.CPUMilli, o.Curve.MemoryMiB = append(o.Curve.CPUMilli, int64(1000*i)), append(o.Curve.MemoryMiB, int64(i))
		o.Online.CPUMilli = append(o.Online.CPUMilli, int64(100*(steps-i)))
	}
	o.Terms.Machine.CPUMilli, o.Terms.Days = 8000, 14
	return NewBatchCapacity("live", o)
}

func TestABatchCapacityIsReadAsItWasWritten(t *testing.T) {
	c := capacityOf(96)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationBatchCapacity: c.String()}}}
	got, err := NodeBatchCapacity(node)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, got); diff != "" {
		t.Error(diff)
	}
	if n := len(c.String()); n > 4096 {
		t.Errorf("the annotation has %d bytes", n)
	}
	if room := got.Curve().At(c.At.Add(15 * time.Minute)); room != (colocate.Room{CPUMilli: 1000, MemoryMiB: 1}) {
		t.Errorf("a quarter of an hour later it lends %v", room)
	}
	if v, known := got.OnlineWith(DayHours{19: 500}, c.At, c.At.Add(2*time.Hour)); !known || v != 9700 { // 9200 + 500 at 19:00
		t.Errorf("online with more at 19:00 is foreseen at %d (%v)", v, known)
	}
	if v, known := got.Online(c.At, c.At.Add(time.Hour)); !known || v != 9600 {
		t.Errorf("online is foreseen at %d (%v)", v, known)
	}
	if _, known := got.Online(c.At.Add(25*time.Hour), c.At.Add(26*time.Hour)); known {
		t.Error("online is foreseen behind the curve")
	}
	if _, err := NodeBatchCapacity(&corev1.Node{}); err != ErrNoBatchCapacity {
		t.Errorf("a node without the annotation: %v", err)
	}
}

func TestACapacityThatNobodyRenewsRunsOut(t *testing.T) {
	c := capacityOf(2)
	for after, want := range map[time.Duration]bool{
		0: true, 2*time.Minute + 59*time.Second: true, 3 * time.Minute: false, time.Hour: false,
		-time.Minute: true, -time.Hour: false, // the clock of who decided is ahead
	} {
		if got := c.Fresh(c.At.Add(after)); got != want {
			t.Errorf("after %v: fresh %v, want %v", after, got, want)
		}
	}
}

func TestABatchCapacityOfNonsenseLendsNothing(t *testing.T) {
	cases := map[string]string{
		"":     "unexpected end of JSON",
		"{}":   "0 steps",
		"null": "0 steps",
		`{"cpuMilli":[1],"memoryMiB":[1],"step":"soon"}`:                                                           "no duration",
		`{"cpuMilli":[1],"memoryMiB":[1],"step":"1s"}`:                                                             "a step of 1s",
		`{"cpuMilli":[1,2],"memoryMiB":[1],"step":"15m"}`:                                                          "2 steps of CPU and 1 of memory",
		`{"cpuMilli":[1],"memoryMiB":[1],"onlineMilli":[1,2],"step":"15m"}`:                                        "2 of online use",
		`{"cpuMilli":[-1],"memoryMiB":[1],"step":"15m"}`:                                                           "step 0 is -1",
		`{"cpuMilli":[9223372036854775807],"memoryMiB":[1],"step":"15m"}`:                                          "step 0 is 9223372036854775807",
		`{"cpuMilli":[1],"memoryMiB":[1],"step":"15m","at":"2026-03-02T18:00:00Z","until":"2027-03-02T18:00:00Z"}`: "an hour at most",
		`{"cpuMilli":[1],"memoryMiB":[1],"step":"15m","at":"2026-03-02T18:00:00Z","until":"2026-03-02T17:00:00Z"}`: "an hour at most",
		`{"cpuMilli":[` + strings.Repeat("1,", 1000) + `1],"memoryMiB":[1],"step":"15m"}`:                          "1001 steps",
		`{"cpuMilli":["1"],"memoryMiB":[1],"step":"15m"}`:                                                          "cannot unmarshal",
		`{"cpuMilli":[1],"memoryMiB":[1],"step":"15m","at":"soon"}`:                                                "parsing time",
	}
	for raw, want := range cases {
		if _, err := ParseBatchCapacity(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", raw, err, want)
		}
	}
}

func FuzzBatchCapacity(f *testing.F) {
	f.Add(capacityOf(96).String(), int64(0))
	f.Add(`{"cpuMilli":[1,0],"memoryMiB":[1,5],"step":"15m","start":"2026-03-02T18:00:00Z"}`, int64(1772474400))
	f.Add(`{}`, int64(-1))
	f.Fuzz(func(t *testing.T, raw string, sec int64) {
		c, err := ParseBatchCapacity(raw)
		if err != nil {
			return
		}
		now := time.Unix(sec%1e11, 0)
		for _, r := range []colocate.Room{c.Curve().At(now), c.Curve().Least(now, now.Add(24*time.Hour))} {
			if r.CPUMilli < 0 || r.MemoryMiB < 0 {
				t.Errorf("it lends %v", r)
			}
		}
		if v, known := c.Online(now, now.Add(24*time.Hour)); v < 0 || v > 0 && !known {
			t.Errorf("online is foreseen at %d", v)
		}
		c.Fresh(now)
		if again, err := ParseBatchCapacity(c.String()); err == nil && !cmp.Equal(c.CPUMilli, again.CPUMilli) {
			t.Error("it is not read as it was written")
		}
	})
}

func TestTheResourcesOfANode(t *testing.T) {
	room := colocate.Room{CPUMilli: 3500, MemoryMiB: 4096}
	node := &corev1.Node{}
	node.Status.Allocatable = BatchQuantities(room, v1alpha1.BatchResourcesKubernetes)
	if len(node.Status.Allocatable) != 4 {
		t.Errorf("it offers %v", node.Status.Allocatable)
	}
	if got := BatchOffer(node); got != room {
		t.Errorf("it offers %v, want %v", got, room)
	}
	node.Status.Allocatable = BatchQuantities(colocate.Room{CPUMilli: -5, MemoryMiB: -5}, v1alpha1.BatchResourcesNeap)
	if got := BatchOffer(node); len(node.Status.Allocatable) != 2 || got != (colocate.Room{}) {
		t.Errorf("less than nothing is %v", node.Status.Allocatable)
	}
}

func TestThePolicyOfANode(t *testing.T) {
	policy := func(name string, priority int32, labels map[string]string) *v1alpha1.ColocationPolicy {
		p := &v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ColocationPolicySpec{Priority: priority}}
		if labels != nil {
			p.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: labels}
		}
		return p
	}
	gone := policy("gone", 100, nil)
	gone.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	all := []*v1alpha1.ColocationPolicy{policy("everywhere", 0, nil), policy("b", 5, map[string]string{"pool": "live"}), policy("a", 5, map[string]string{"pool": "live"}), gone}
	node := func(labels map[string]string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	cases := map[string]struct {
		node *corev1.Node
		want string
	}{
		"the highest priority, then the first by name": {node(map[string]string{"pool": "live"}), "a"},
		"the one for all":           {node(map[string]string{"pool": "other"}), "everywhere"},
		"none for a virtual one":    {node(nil, corev1.Taint{Key: v1alpha1.TaintServerless}), ""},
		"one that is being deleted": {node(nil), "everywhere"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := ""
			if p := ColocationOf(tc.node, all, nil); p != nil {
				got = p.Name
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatAColocationPolicyDeclares(t *testing.T) {
	p := &v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: "live"}, Spec: v1alpha1.ColocationPolicySpec{
		CPUPercent: 75, MemoryPercent: 70,
		Windows: []v1alpha1.ColocationWindow{
			{Name: "evening", Days: []v1alpha1.DayKind{v1alpha1.DayWorkday, "Sunday"}, From: "18:00", To: "22:30", TimeZone: "Asia/Shanghai"},
			{Name: "holidays", Days: []v1alpha1.DayKind{v1alpha1.DayHoliday}, From: "00:00", To: "24:00", CPUPercent: 60, MemoryPercent: ptr.To[int32](50)},
			{Name: "night", From: "23:00", To: "01:00", CPUPercent: 30},
		},
		Capacity:  v1alpha1.ColocationCapacity{QuantilePercent: 99, HistoryDays: 28, DefaultRunTime: "30m", RisePercentPer5Minutes: 5, MinimumMilli: 500},
		Evictions: v1alpha1.ColocationEvictions{PerHour: 4, GracePeriod: "1m"},
	}}
	days := timetable.Days{Named: map[timetable.Date]elastic.DayType{{Year: 2026, Month: 3, Day: 4}: elastic.Holiday}} // a Wednesday
	got, err := DeclaredColocation(p, days)
	if err != nil {
		t.Fatal(err)
	}
	want := colocate.Policy{CPUPercent: 75, MemoryPercent: 70, Quantile: 0.99, RunTime: 30 * time.Minute, RisePercent: 5, MinimumMilli: 500}
	if diff := cmp.Diff(want, got.Policy); diff != "" {
		t.Error(diff)
	}
	if got.History != 28*24*time.Hour || got.Grace != time.Minute || got.Leaving != (colocate.Leaving{Notice: 2 * time.Minute, PerHour: 4}) {
		t.Errorf("got %+v", got)
	}
	// From Monday to Sunday, in UTC.
	var windows []string
	for _, w := range colocate.Windows(got.Hours, time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC)) {
		if w.Name != "night" {
			windows = append(windows, fmt.Sprintf("%s %s–%s %d/%d", w.Name, w.From.UTC().Format("Mon 15:04"), w.To.UTC().Format("Mon 15:04"), w.CPUPercent, w.MemoryPercent))
		} else if w.To.Sub(w.From) != 2*time.Hour {
			t.Errorf("the night is from %v to %v", w.From, w.To)
		}
	}
	wantWindows := []string{
		"evening Mon 10:00–Mon 14:30 0/70", "evening Tue 10:00–Tue 14:30 0/70", "holidays Wed 00:00–Thu 00:00 60/50",
		"evening Thu 10:00–Thu 14:30 0/70", "evening Fri 10:00–Fri 14:30 0/70", "evening Sun 10:00–Sun 14:30 0/70",
	}
	if diff := cmp.Diff(wantWindows, windows); diff != "" {
		t.Error(diff)
	}

	bad := p.DeepCopy()
	bad.Spec.Windows[0].From, bad.Spec.Windows[1].To, bad.Spec.Windows[2].TimeZone, bad.Spec.Capacity.DefaultRunTime = "6pm", "25:00", "Mars", "soon"
	_, err = DeclaredColocation(bad, nil)
	for _, want := range []string{"colocation policy live", "window evening: from:", "window holidays: to:", "window night: timeZone", "capacity.defaultRunTime"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
