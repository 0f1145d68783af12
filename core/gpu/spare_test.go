package gpu

import "testing"

func TestSpareKeepsRoomForLargeDemands(t *testing.T) {
	machines := []Machine{machine(90, 90, 4, 0), machine(90, 90, 2, 0), machine(2, 90, 4, 0)}
	small, large := Demand{CPU: 1, Devices: 1, Milli: Whole}, Demand{CPU: 8, Devices: 4, Milli: Whole}
	shares := []Share{{Demand: small, Count: 99}, {Demand: large, Count: 1}}
	f := NewFleet(machines, NewSpare(NewNeap(machines, shares, 0), shares))
	var on []int
	for range 9 {
		spot, ok := f.Pick(small)
		if !ok {
			break
		}
		if err := f.Place(small, spot); err != nil {
			t.Fatal(err)
		}
		on = append(on, spot.Machine)
	}
	for i, m := range on {
		if m == 0 && i < 4 {
			t.Errorf("the %dth small one takes the only machine with room for the large one: %v", i+1, on)
		}
	}
	if len(on) != 8 {
		t.Errorf("%d of 8 small ones found a place", len(on))
	}
}
