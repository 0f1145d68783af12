package colocation

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/neap-dev/neap/sim/autoscale"
)

// ReadDir reads every series below a folder, in the order of their names: files
// that end in .csv and whose first line names ts, timestamp or local_time and a
// value. A column room makes a series of each room; a column events counts, so
// that a minute without a line is 0. Files of another shape are left out, and
// named.
func ReadDir(dir string) (all []*autoscale.Series, leftOut []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %s: %w", dir, err)
		}
		if d.IsDir() || !strings.HasSuffix(path, ".csv") {
			return nil
		}
		name, _ := filepath.Rel(dir, path)
		name = strings.TrimSuffix(filepath.ToSlash(name), ".csv")
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the series %s: %w", path, err)
		}
		line, _, _ := bytes.Cut(data, []byte("\n"))
		columns := strings.Split(strings.TrimSpace(string(line)), ",")
		has := func(c string) bool { return slices.Contains(columns, c) }
		switch {
		case !has("ts") && !has("timestamp") && !has("local_time"):
			leftOut = append(leftOut, name)
			return nil
		case has("room"):
			rooms, err := autoscale.ReadRooms(bytes.NewReader(data), path)
			if err != nil {
				return err
			}
			for _, room := range slices.Sorted(maps.Keys(rooms)) {
				rooms[room].Name = name + "/" + room
				all = append(all, rooms[room])
			}
			return nil
		case has("events"):
			s, err := counts(data, path)
			if err != nil {
				return err
			}
			s.Name = name
			all = append(all, s)
			return nil
		}
		s, err := autoscale.Read(bytes.NewReader(data), path)
		if err != nil {
			return err
		}
		s.Name = name
		all = append(all, s)
		return nil
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no series is below %s; give a folder with CSV files whose first line is ts,value", dir)
	}
	return all, leftOut, err
}

// counts reads a series of counts: where there is no line nothing was counted.
func counts(data []byte, path string) (*autoscale.Series, error) {
	s, err := autoscale.Read(bytes.NewReader(data), path)
	if err != nil {
		return nil, err
	}
	for i, v := range s.Value {
		if !known(v) {
			s.Value[i] = 0
		}
	}
	s.Notes = nil // they would call these minutes gaps
	return s, nil
}
