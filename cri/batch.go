package cri

import "google.golang.org/protobuf/proto"

// batchBytes is the size from which on a message of a stream is sent: far below what any client takes (gRPC's default is
// 4 MiB), also with one large item more, and large enough that a usual node's list is one message.
const batchBytes = 1 << 20

// inBatches hands items to send in their order, each one once, in parts of at least one item and about batchBytes. No items
// are no message: the stream just ends.
func inBatches[T proto.Message](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && size < batchBytes {
			size += proto.Size(items[n])
			n++
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
