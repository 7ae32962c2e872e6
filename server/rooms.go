package server

import (
	"context"
	"errors"
)

// rooms are the parts below the socket, put together.
type rooms struct {
	service interface {
		service
		// Recover rebuilds what the service knows; it is called once, before it serves.
		Recover(ctx context.Context) error
	}
	close func() // ends the parts in reverse order; containers and shim go on
}

// openRooms puts the parts together.
func openRooms(ctx context.Context, o Options) (*rooms, error) {
	return nil, errors.New("the rooms are not built yet")
}
