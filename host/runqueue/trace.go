package runqueue

import "errors"

func trace(groups int) (reader, error) { return nil, errors.New("not built yet") }
