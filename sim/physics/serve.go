package physics

import (
	"math"
	"time"
)

// A Station is the narrowest place of one pod: a queue with Servers servers
// that together do Capacity requests a second.
type Station struct {
	Servers  int           // at least 1
	Capacity float64       // requests a second when all servers are busy
	Service  time.Duration // mean response without waiting: CPU time and what it waits for elsewhere
	Timeout  time.Duration // a request that would wait longer fails; 0 means 10 s
}

// An Outcome is what the requests of one pod meet. The zero Outcome is of no
// use; get one from [Station.Serve].
type Outcome struct {
	Success float64 // share of the requests answered in time, 0 to 1
	Busy    float64 // mean share of the capacity in use, 0 to 1

	wait    float64 // share of the admitted that wait
	theta   float64 // rate of the truncated exponential wait, per second; may be negative
	timeout float64 // seconds
	mu      float64 // 1 ÷ mean service, per second
}

// Serve returns what lambda requests a second meet. It is an M/M/c/K queue
// whose room K−c is what the capacity drains within the timeout; waits are
// taken as a truncated exponential, the limit of the queue's geometric states.
func (s Station) Serve(lambda float64) Outcome {
	timeout := s.Timeout.Seconds()
	if timeout <= 0 {
		timeout = 10
	}
	o := Outcome{Success: 1, timeout: timeout, mu: math.Inf(1)}
	if s.Service > 0 {
		o.mu = 1 / s.Service.Seconds()
	}
	if !(lambda > 0) {
		return o
	}
	if !(s.Capacity > 0) {
		return Outcome{Success: 0, Busy: 1, wait: 1, timeout: timeout, mu: o.mu}
	}
	c := min(max(s.Servers, 1), maxServers)
	rho := lambda / s.Capacity
	room := math.Max(1, math.Floor(s.Capacity*timeout))

	// Erlang B with offered load c·ρ: the last state's share if there were no queue.
	a, b := float64(c)*rho, 1.0
	for n := 1; n <= c; n++ {
		b = a * b / (float64(n) + a*b)
	}
	// States c+1 … c+room, relative to the states up to c; scaled by ρ^−room
	// above saturation so that nothing overflows.
	var queue, last, base float64
	switch {
	case math.Abs(rho-1) < 1e-9:
		queue, last, base = b*room, b, 1
	case rho < 1:
		pow := math.Pow(rho, room)
		queue, last, base = b*rho*(1-pow)/(1-rho), b*pow, 1
	default:
		inv := math.Pow(rho, -room)
		queue, last, base = b*rho*(1-inv)/(rho-1), b, inv
	}
	total := base + queue
	blocked := last / total
	admitted := total - last
	o.Success = clamp01(1 - blocked)
	// Above saturation the served part is exactly what the capacity can do.
	o.Success = min(o.Success, 1/rho)
	o.Busy = clamp01(rho * o.Success)
	if admitted > 0 {
		o.wait = clamp01((b*base + queue - last) / admitted)
	}
	o.theta = s.Capacity * (1 - rho)
	return o
}

// maxServers bounds the work of one Serve; beyond it more servers change nothing visible.
const maxServers = 512

// Slower returns the share of the answered requests that take longer than t.
func (o Outcome) Slower(t time.Duration) float64 {
	x := t.Seconds()
	switch {
	case x < 0:
		return 1
	case o.Success == 0:
		if x < o.timeout {
			return 1
		}
		return 0
	}
	tail := 0.0
	if !math.IsInf(o.mu, 1) {
		tail = math.Exp(-o.mu * x)
	}
	p := (1 - o.wait) * tail
	if o.wait > 0 {
		p += o.wait * o.waitTail(x)
	}
	return clamp01(p)
}

// waitTail is P(W+S > x) for those that wait: W truncated exponential on
// [0, timeout] with rate θ, S exponential with rate μ.
func (o Outcome) waitTail(x float64) float64 {
	T, th := o.timeout, o.theta
	y := math.Min(x, T)
	// P(W ≤ y), and the part of those whose service then passes x.
	var cdf, late float64
	if math.Abs(th*T) < 1e-6 { // uniform
		cdf = y / T
		if !math.IsInf(o.mu, 1) {
			late = (math.Exp(-o.mu*(x-y)) - math.Exp(-o.mu*x)) / (o.mu * T)
		}
	} else {
		norm := -math.Expm1(-th * T) // may be negative with θ; the ratio is right
		if math.IsInf(norm, 0) {     // far above saturation: everyone waits the timeout
			cdf = 0
			if x >= T {
				cdf = 1
			}
			if !math.IsInf(o.mu, 1) && x >= T {
				late = math.Exp(-o.mu * (x - T))
			}
			return clamp01(1 - cdf + late)
		}
		cdf = -math.Expm1(-th*y) / norm
		if !math.IsInf(o.mu, 1) {
			d := o.mu - th
			// ∫₀^y θ e^{−θw} e^{−μ(x−w)} dw ÷ norm
			if math.Abs(d)*y < 1e-9 {
				late = th * y * math.Exp(-o.mu*x) / norm
			} else {
				late = th * (math.Exp(-o.mu*(x-y)-th*y) - math.Exp(-o.mu*x)) / (d * norm)
			}
		}
	}
	return clamp01(1 - cdf + late)
}

// Quantile returns the time within which share p of the answered requests are
// answered, to a thousandth of itself.
func (o Outcome) Quantile(p float64) time.Duration {
	hi := 1e-4
	for hi < 1e5 && 1-o.Slower(seconds(hi)) < p {
		hi *= 2
	}
	lo := 0.0
	for range 60 {
		mid := (lo + hi) / 2
		if 1-o.Slower(seconds(mid)) < p {
			lo = mid
		} else {
			hi = mid
		}
		if hi-lo < hi*1e-3 {
			break
		}
	}
	return seconds(hi)
}

// Mean returns the mean response time of the answered requests.
func (o Outcome) Mean() time.Duration {
	m := 0.0
	if !math.IsInf(o.mu, 1) {
		m = 1 / o.mu
	}
	if o.wait > 0 {
		x := o.theta * o.timeout
		var w float64
		switch {
		case o.Success == 0:
			w = o.timeout
		case math.Abs(x) < 1e-3: // series; the closed form cancels
			w = o.timeout * (0.5 - x/12)
		default:
			w = o.timeout * (1/x - 1/math.Expm1(x))
		}
		m += o.wait * min(max(w, 0), o.timeout)
	}
	return seconds(m)
}

func seconds(s float64) time.Duration {
	if math.IsNaN(s) || s < 0 {
		return 0
	}
	return time.Duration(min(s, 1e9) * float64(time.Second))
}

func clamp01(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return min(1, max(0, v))
}
