"""A FastAPI application of one's own, guarded by the plain ASGI middleware.

pip install 'shieldkit' fastapi uvicorn && uvicorn examples.fastapi_app:app
"""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from shieldkit import Shield
from shieldkit.adapters.asgi import Route, ShieldMiddleware

shield = Shield("builtin:default")  # screens; the application asks its model itself
app = FastAPI()
app.add_middleware(ShieldMiddleware, shield=shield, routes=[Route("/chat", input=["message"], output=["answer"])])


class Question(BaseModel):
    message: str
    session: str = "none"


@app.post("/chat")
async def chat(question: Question) -> dict[str, str]:
    """Stands for a call of a model: it says the question again."""
    return {"answer": f"You asked: {question.message}", "session": question.session}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
