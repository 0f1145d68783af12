package poolorder

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

func TestPoolOrderScores(t *testing.T) {
	const absent = "absent"
	cases := map[string]struct {
		labels []string
		want   []int64
	}{
		"the first pool is best and serverless is last":           {[]string{"0", "1", "2"}, []int64{100, 50, 0}},
		"where all pools are equal nothing is preferred":          {[]string{"3", "3"}, []int64{100, 100}},
		"only the orders that are present count":                  {[]string{"5", "6"}, []int64{100, 0}},
		"a node without the label counts as first":                {[]string{absent, "1"}, []int64{100, 0}},
		"a label that is no number counts as first":               {[]string{"soon", "1"}, []int64{100, 0}},
		"a negative order counts as first":                        {[]string{"-4", "1", "2"}, []int64{100, 50, 0}},
		"an order beyond all bounds neither overflows nor panics": {[]string{"0", "9223372036854775807", "99999999999999999999"}, []int64{100, 0, 100}},
		"no nodes at all": {nil, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := &PoolOrder{}
			var scores fwk.NodeScoreList
			for _, label := range tc.labels {
				node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "machine", Labels: map[string]string{}}}
				if label != absent {
					node.Labels[Label] = label
				}
				info := framework.NewNodeInfo()
				info.SetNode(node)
				score, status := p.Score(t.Context(), nil, &v1.Pod{}, info)
				if !status.IsSuccess() {
					t.Fatal(status)
				}
				scores = append(scores, fwk.NodeScore{Score: score})
			}
			if status := p.NormalizeScore(t.Context(), nil, nil, scores); !status.IsSuccess() {
				t.Fatal(status)
			}
			var got []int64
			for _, s := range scores {
				got = append(got, s.Score)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("scores (-want +got):\n%s", diff)
			}
		})
	}
}
