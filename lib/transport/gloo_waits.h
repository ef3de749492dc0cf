/*
 * Lets a wait inside Gloo be ended from outside. When a connection fails, Gloo tells those that
 * wait for a message not yet begun, but not the one that waits for the rest of a message. So all
 * buffers that Gloo's algorithms use are made here, around Gloo's own, and can be told.
 */
#ifndef PSGD_TRANSPORT_GLOO_WAITS_H
#define PSGD_TRANSPORT_GLOO_WAITS_H

#include <gloo/common/error.h>
#include <gloo/transport/context.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

namespace psgd_gloo
{

using std::chrono::milliseconds;

class Buffer;

/* The buffers in use. Its end is final. */
class Waits
{
      public:
	void add(Buffer *buffer);
	void remove(Buffer *buffer);
	void end();

	void check()
	{
		std::lock_guard<std::mutex> lock(lock_);
		if (ended_)
			throw gloo::IoException("the wait was ended");
	}

	/* Whom the latest wait is for, or -1. One thread. */
	int awaited = -1;

      private:
	std::mutex lock_;
	bool ended_ = false;
	std::vector<Buffer *> buffers_;
};

class Buffer final : public gloo::transport::UnboundBuffer
{
      public:
	Buffer(Waits &waits, std::unique_ptr<gloo::transport::UnboundBuffer> inner)
	    : UnboundBuffer(inner->ptr, inner->size), waits_(waits), inner_(std::move(inner))
	{
		waits_.add(this);
	}

	~Buffer() override
	{
		waits_.remove(this);
	}

	bool waitRecv(int *rank, milliseconds timeout) override
	{
		waits_.check();
		waits_.awaited = from_;
		if (!inner_->waitRecv(rank, timeout))
			waits_.check();
		return true;
	}

	bool waitSend(int *rank, milliseconds timeout) override
	{
		waits_.check();
		waits_.awaited = to_;
		if (!inner_->waitSend(rank, timeout))
			waits_.check();
		return true;
	}

	void abortWaitRecv() override
	{
		inner_->abortWaitRecv();
	}

	void abortWaitSend() override
	{
		inner_->abortWaitSend();
	}

	void send(int to, uint64_t slot, size_t offset, size_t bytes) override
	{
		waits_.check();
		to_ = to;
		inner_->send(to, slot, offset, bytes);
	}

	void recv(int from, uint64_t slot, size_t offset, size_t bytes) override
	{
		waits_.check();
		from_ = from;
		inner_->recv(from, slot, offset, bytes);
	}

	void recv(std::vector<int> from, uint64_t slot, size_t offset, size_t bytes) override
	{
		waits_.check();
		inner_->recv(std::move(from), slot, offset, bytes);
	}

      private:
	Waits &waits_;
	std::unique_ptr<gloo::transport::UnboundBuffer> inner_;
	int from_ = -1, to_ = -1;
};

inline void Waits::add(Buffer *buffer)
{
	std::lock_guard<std::mutex> lock(lock_);
	buffers_.push_back(buffer);
}

inline void Waits::remove(Buffer *buffer)
{
	std::lock_guard<std::mutex> lock(lock_);
	buffers_.erase(std::remove(buffers_.begin(), buffers_.end(), buffer), buffers_.end());
}

inline void Waits::end()
{
	std::lock_guard<std::mutex> lock(lock_);
	ended_ = true;
	for (Buffer *buffer : buffers_) {
		buffer->abortWaitRecv();
		buffer->abortWaitSend();
	}
}

/* Gloo's transport, but for the buffers. */
class Transport final : public gloo::transport::Context
{
      public:
	Transport(Waits &waits, std::shared_ptr<gloo::transport::Context> inner)
	    : Context(inner->rank, inner->size), waits_(waits), inner_(std::move(inner))
	{
	}

	std::unique_ptr<gloo::transport::Pair> &getPair(int rank) override
	{
		return inner_->getPair(rank);
	}

	std::unique_ptr<gloo::transport::Pair> &createPair(int rank) override
	{
		return inner_->createPair(rank);
	}

	std::unique_ptr<gloo::transport::UnboundBuffer> createUnboundBuffer(
		void *data, size_t bytes) override
	{
		return std::make_unique<Buffer>(waits_, inner_->createUnboundBuffer(data, bytes));
	}

      private:
	Waits &waits_;
	std::shared_ptr<gloo::transport::Context> inner_;
};

} /* namespace psgd_gloo */

#endif
