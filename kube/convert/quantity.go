package convert

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// most bounds every amount: more than the largest cluster has, and small enough
// that products with seconds and prices stay exact in core.
const most = int64(1) << 50

// Vector reads CPU, memory and GPUs, whole or in thousandths, from a resource
// list; everything else in it is not bought and left out. Where a machine's GPUs
// are told both ways they are the same GPUs.
func Vector(l corev1.ResourceList) resource.Vector {
	cpu, memory, gpu, pieces := l[corev1.ResourceCPU], l[corev1.ResourceMemory], l[v1alpha1.ResourceGPU], l[v1alpha1.ResourceGPUMilli]
	v := vector(&cpu, &memory, &gpu)
	v[resource.GPU] = max(v[resource.GPU], whole(&pieces))
	return v
}

// amounts reads declared amounts; what is absent is zero.
func amounts(a v1alpha1.Amounts) resource.Vector { return vector(a.CPU, a.Memory, a.GPU) }

func vector(cpu, memory, gpu *apiresource.Quantity) resource.Vector {
	return resource.Vector{resource.CPU: milli(cpu), resource.Memory: whole(memory), resource.GPU: milli(gpu)}
}

func milli(q *apiresource.Quantity) int64 {
	switch {
	case q == nil || q.Sign() <= 0:
		return 0
	case q.AsApproximateFloat64() >= float64(most)/1000: // an exact comparison writes all zeros of 1e6666615 out
		return most
	}
	return min(q.MilliValue(), most)
}

func whole(q *apiresource.Quantity) int64 {
	switch {
	case q == nil || q.Sign() <= 0:
		return 0
	case q.AsApproximateFloat64() >= float64(most):
		return most
	}
	return min(q.Value(), most)
}

// Amounts writes a vector as declared amounts; a resource that is zero is absent.
func Amounts(v resource.Vector) v1alpha1.Amounts {
	var a v1alpha1.Amounts
	if n := v[resource.CPU]; n != 0 {
		a.CPU = apiresource.NewMilliQuantity(n, apiresource.DecimalSI)
	}
	if n := v[resource.Memory]; n != 0 {
		a.Memory = apiresource.NewQuantity(n, apiresource.BinarySI)
	}
	if n := v[resource.GPU]; n != 0 {
		a.GPU = apiresource.NewMilliQuantity(n, apiresource.DecimalSI)
	}
	return a
}

// price reads declared money; nil is zero.
func price(m *v1alpha1.Money) (money.PerHour, error) {
	if m == nil {
		return 0, nil
	}
	a, err := money.Parse(string(*m))
	if err != nil {
		return 0, err
	}
	if a < 0 {
		return 0, fmt.Errorf("price %s is negative", *m)
	}
	return money.PerHour(a), nil
}

// decimal reads a number such as "37.5" and returns it times scale, a power of
// ten, which must come out whole.
func decimal(s string, scale int64) (int64, error) {
	a, err := money.Parse(s)
	if err != nil {
		return 0, err
	}
	per := int64(money.Unit) / scale
	if int64(a)%per != 0 {
		return 0, fmt.Errorf("%q has too many decimals: at most %d", s, len(fmt.Sprint(scale))-1)
	}
	return int64(a) / per, nil
}

func positive(name, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s %q is not a time above 0, such as 300ms", name, s)
	}
	return d, nil
}

// Money writes an amount for people, rounded to four decimals, such as "12.3457".
func Money(a money.Amount) string {
	const step = money.Unit / 10_000
	half := step / 2
	if a < 0 {
		half = -half
	}
	n := (a + half) / step
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	return fmt.Sprintf("%s%d.%04d", sign, n/10_000, n%10_000)
}
