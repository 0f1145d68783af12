package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/controller/gpustatus"
	"github.com/neap-dev/neap/kube/convert"
)

func newGPUCommand() *cobra.Command {
	at, format, model := &clusterFlags{}, "", ""
	cmd := &cobra.Command{
		Use:   "gpu [MACHINE…]",
		Short: "Show what runs on a cluster's GPUs, and how far from the best possible that is",
		Long: `neap gpu shows how much of a cluster's GPUs pods hold, what of the rest the usual
pods cannot use (fragments), and two bounds that are proven in whole numbers: how
many GPUs more any placement of the same pods could put to work, at most, and how
much an hour of machines could be given back, at most.

Every GPU is a bar of ten cells, a letter being a pod: aaaab..... is a GPU with
two pods and half of it idle; xxxxxxxxxx is sick. With names of machines it tells
each pod on them. Nothing is changed; neap gpu repack makes plans that change it.`,
		Example: `  # the fleet, model by model and machine by machine
  neap gpu

  # what runs on two machines
  neap gpu g2-003 t4-011

  # machines with T4s only, for a script
  neap gpu --model T4 --format json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			v, err := gpustatus.Read(cmd.Context(), k, nil, time.Now())
			if err != nil {
				return explain(err, name, "list", "repackplans")
			}
			if v.Survey.Hosts, err = chosen(v.Survey.Hosts, args, model, name); err != nil {
				return err
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), struct {
					At time.Time `json:"at"`
					gpu.Survey
					Currency string   `json:"currency"`
					Problems []string `json:"problems"`
				}{v.At, v.Survey, v.Currency, slices.Concat([]string{}, v.Problems)})
			}
			return writeGPUs(cmd.OutOrStdout(), v, name, len(args) > 0)
		},
	}
	at.register(cmd)
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().StringVar(&model, "model", "", "only machines with GPUs of this model")
	cmd.AddCommand(newGPURepackCommand(at))
	return cmd
}

// chosen keeps the machines that a command line names.
func chosen(hosts []gpu.SurveyedHost, names []string, model, cluster string) ([]gpu.SurveyedHost, error) {
	for _, n := range names {
		if !slices.ContainsFunc(hosts, func(h gpu.SurveyedHost) bool { return h.Name == n }) {
			return nil, fmt.Errorf("there is no machine %s with GPUs in %s; neap gpu lists them", n, cluster)
		}
	}
	fits := func(h gpu.SurveyedHost) bool {
		return slices.ContainsFunc(h.Devices, func(d gpu.SurveyedDevice) bool { return strings.EqualFold(d.Model, convert.GPUModelName(model)) })
	}
	if model != "" && !slices.ContainsFunc(hosts, fits) {
		return nil, fmt.Errorf("no machine in %s has GPUs of model %s; neap gpu lists the models", cluster, model)
	}
	return slices.DeleteFunc(hosts, func(h gpu.SurveyedHost) bool {
		return len(names) > 0 && !slices.Contains(names, h.Name) || model != "" && !fits(h)
	}), nil
}

func writeGPUs(w io.Writer, v *gpustatus.View, cluster string, detail bool) error {
	s := &v.Survey
	if len(s.Hosts) == 0 {
		_, err := fmt.Fprintf(w, "No machine in %s tells of GPUs. docs/gpu.md shows how its agent does, and what else Neap reads.\n", cluster)
		return err
	}
	if !detail {
		writeFleet(w, v)
	}
	t := newTable("MACHINE", "POOL", "MODEL", ">GPUS", ">PODS", ">CORES LEFT", "GPU BY GPU")
	for i := range s.Hosts {
		h := &s.Hosts[i]
		t.add(h.Name, orDash(h.Pool), modelsOf(h), fmt.Sprint(len(h.Devices)), fmt.Sprint(len(h.Pods)), fmt.Sprintf("%.1f", float64(h.CPULeft)/1000), bars(h))
	}
	t.write(w, "")
	if detail {
		for i := range s.Hosts {
			h := &s.Hosts[i]
			fmt.Fprintf(w, "\n%s\n", h.Name)
			t := newTable("", "POD", ">GPUS", ">OF EACH", ">MEMORY OF EACH", "ON")
			for k, p := range h.Pods {
				t.add(string(letter(k)), p.Namespace+"/"+p.Name, fmt.Sprint(p.GPUs), fmt.Sprintf("%.1f %%", float64(p.Milli)/10), mib(p.MemoryMiB), strings.Join(devicesOf(h, k), " "))
			}
			t.write(w, "")
			for _, d := range h.Devices {
				if !d.Healthy {
					fmt.Fprintf(w, "%s is sick: %s\n", d.UUID, orDash(d.Reason))
				}
			}
		}
	} else if len(s.Waiting) > 0 {
		fmt.Fprintln(w)
		t := newTable("WAITING POD", ">GPUS", ">OF EACH", ">MEMORY OF EACH", "WHY")
		for _, p := range s.Waiting[:min(len(s.Waiting), mostWaiting)] {
			t.add(p.Namespace+"/"+p.Name, fmt.Sprint(p.GPUs), fmt.Sprintf("%.1f %%", float64(p.Milli)/10), mib(p.MemoryMiB), orDash(p.Reason))
		}
		t.write(w, "")
		if n := len(s.Waiting) - mostWaiting; n > 0 {
			fmt.Fprintf(w, "and %d more; --format json has all\n", n)
		}
	}
	for _, p := range v.Problems {
		fmt.Fprintf(w, "\n! %s\n", p)
	}
	return nil
}

// mostWaiting is how many waiting pods a table shows.
const mostWaiting = 20

// writeFleet writes what holds for all machines.
func writeFleet(w io.Writer, v *gpustatus.View) {
	s := &v.Survey
	sick := 0
	for _, m := range s.Models {
		sick += m.Sick
	}
	share := 0.0
	if s.CapacityMilli > 0 {
		share = 100 * float64(s.AllocatedMilli) / float64(s.CapacityMilli)
	}
	fmt.Fprintf(w, "GPUs:     %s of %s allocated (%.1f %%), %d sick; %d machines used, %d empty; %d pods wait for %s\n",
		gpus(s.AllocatedMilli), gpus(s.CapacityMilli), share, sick, s.Used, s.Empty, len(s.Waiting), gpus(s.WaitingMilli))
	fmt.Fprintf(w, "Bound:    at most %s GPUs more could be put to work, whatever is moved\n", gpus(s.GapMilli))
	if s.Unpriced > 0 {
		fmt.Fprintf(w, "          %d machines have no price; declare MachineTypes (docs/bill.md) to see what could be given back\n\n", s.Unpriced)
	} else {
		fmt.Fprintf(w, "          at most %s %s an hour could be given back: %s is used, no placement needs less than %s\n\n",
			convert.Money(s.GapNano), v.Currency, convert.Money(s.UsedNano), convert.Money(s.LeastNano))
	}
	t := newTable("MODEL", ">GPUS", ">ALLOCATED", ">IDLE", ">OF IT FRAGMENTS", ">SICK")
	for _, m := range s.Models {
		share := 0.0
		if m.GPUs > 0 {
			share = float64(m.AllocatedMilli) / float64(10*m.GPUs)
		}
		t.add(m.Model, fmt.Sprint(m.GPUs), fmt.Sprintf("%.1f %%", share), gpus(m.IdleMilli), gpus(m.FragmentMilli), fmt.Sprint(m.Sick))
	}
	t.write(w, "")
	fmt.Fprintln(w)
}

// gpus writes thousandths as GPUs.
func gpus(milli int64) string {
	if milli%gpu.Whole == 0 {
		return fmt.Sprint(milli / gpu.Whole)
	}
	return fmt.Sprintf("%.2f", float64(milli)/gpu.Whole)
}

func mib(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%d MiB", n)
}

func modelsOf(h *gpu.SurveyedHost) string {
	var names []string
	for _, d := range h.Devices {
		if !slices.Contains(names, d.Model) {
			names = append(names, d.Model)
		}
	}
	return strings.Join(names, "+")
}

func devicesOf(h *gpu.SurveyedHost, pod int) []string {
	var out []string
	for _, d := range h.Devices {
		if slices.Contains(d.Pods, pod) {
			out = append(out, d.UUID)
		}
	}
	return out
}

// letter is the sign of a machine's pod in its bars.
func letter(pod int) byte {
	const letters = "abcdefghijklmnopqrstuvwyzABCDEFGHIJKLMNOPQRSTUVWXYZ" // x is for the sick
	return letters[pod%len(letters)]
}

// bars draws each GPU in ten cells. A pod has at least one cell where there is room.
func bars(h *gpu.SurveyedHost) string {
	const cells = 10
	out := make([]string, len(h.Devices))
	for i, d := range h.Devices {
		if !d.Healthy {
			out[i] = strings.Repeat("x", cells)
			continue
		}
		var b strings.Builder
		var held int64
		for _, p := range d.Pods {
			held += h.Pods[p].Milli
			end := max(int((held*cells+gpu.Whole/2)/gpu.Whole), b.Len()+1)
			for b.Len() < min(end, cells) {
				b.WriteByte(letter(p))
			}
		}
		for b.Len() < cells {
			b.WriteByte('.')
		}
		out[i] = b.String()
	}
	return strings.Join(out, " ")
}
